"""Chat messages to text and token ids, by the template of a checkpoint, and answers to parts."""

from moeflux.chat.answer import AnswerParser as AnswerParser
from moeflux.chat.answer_style import AnswerStyle as AnswerStyle
from moeflux.chat.answer_style import starts_in_reasoning as starts_in_reasoning
from moeflux.chat.parts import Content as Content
from moeflux.chat.parts import Part as Part
from moeflux.chat.parts import Reasoning as Reasoning
from moeflux.chat.parts import ToolCall as ToolCall
from moeflux.chat.template import ChatTemplate as ChatTemplate
