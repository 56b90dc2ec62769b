// Looks up the rows of an embedding table.
#include "dequant.h"

// threadgroups: [width / ELEMENT_THREADS, n_tokens]. A token outside of the vocabulary gives a row of NaN.
kernel void embedding(device const uchar* weight [[buffer(0)]], device const uchar* scales [[buffer(1)]],
                      device const uchar* biases [[buffer(2)]], device const int* tokens [[buffer(3)]],
                      device float* out [[buffer(4)]], constant EmbeddingParams& params [[buffer(5)]],
                      uint2 group [[threadgroup_position_in_grid]], uint thread_index [[thread_index_in_threadgroup]]) {
  const uint col = group.x * ELEMENT_THREADS + thread_index;
  if (col >= params.width) return;
  const uint token = uint(tokens[group.y]);
  float element = NAN;
  if (token < params.vocabulary) {
    const Matrix table = {weight, scales, biases, params.vocabulary, params.width, format};
    element = matrix_element(matrix_row(table, token), format, col);
  }
  out[ulong(group.y) * params.width + col] = element;
}
