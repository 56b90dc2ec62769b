"""Chat messages to text and token ids, by the template of a checkpoint."""

from moeflux.chat.template import ChatTemplate as ChatTemplate
