// Rotary positions: pairs of numbers turned by angles that grow with the position. Twins of nanograd/ops/rotary.py.
//
//     y₁ = x₁ cos a − x₂ sin a,   y₂ = x₁ sin a + x₂ cos a,      a = m θᵢ at position m
//
// Angles need more than float32: position 100,000 turns the fastest hand 16,000 times round. Counted in whole turns,
// only the fraction matters, and unsigned integers drop whole turns by themselves: with θᵢ/2π in units of 2⁻⁶⁴ of a
// turn, m times it, modulo 2⁶⁴, is the fraction for every m. No table of positions is needed, so nobody need know the
// largest position, which lies on the device.
//
// Bytes moved for n numbers of s bytes: 2 n s. A block turns one row: all heads of one position share its cosines.
#include "nk.h"

struct Turn {
  float cos, sin;
};

// The turn of pair i at a position: amplitude · (cos, ± sin)
NK_DEV Turn turn_at(i64 position, u64 speed, float amplitude, float direction) {
  u64 phase = u64(position) * speed;
  float half_turns = float(int(phase >> 32)) * 4.6566128730773926e-10f;  // 2⁻³¹: the fraction, from −1 to 1
  Turn turn;
  sincospif(half_turns, &turn.sin, &turn.cos);
  return {amplitude * turn.cos, amplitude * direction * turn.sin};
}

// y₁ and y₂ of one pair, in place
template <class T>
NK_DEV void turn(T& a, T& b, Turn by) {
  float x1 = to_float(a), x2 = to_float(b);
  a = from_float<T>(x1 * by.cos - x2 * by.sin);
  b = from_float<T>(x1 * by.sin + x2 * by.cos);
}

// Pair i of a head is its numbers i and i + D/2: WIDE pairs at once, from two places
template <class T, int WIDE>
NK_DEV void turn_halves(T* y, const T* x, const Turn* turns, int heads, int D) {
  int half = D / 2, per_head = half / WIDE;
  for (int unit = threadIdx.x; unit < heads * per_head; unit += blockDim.x) {
    int i = unit % per_head * WIDE, at = unit / per_head * D + i;
    pack<T, WIDE> a = load_pack<WIDE>(x + at), b = load_pack<WIDE>(x + at + half);
#pragma unroll
    for (int k = 0; k < WIDE; k++) turn(a.v[k], b.v[k], turns[i + k]);
    store_pack(y + at, a);
    store_pack(y + at + half, b);
  }
}

// Pair i of a head is its numbers 2i and 2i + 1: WIDE / 2 pairs at once
template <class T, int WIDE>
NK_DEV void turn_pairs(T* y, const T* x, const Turn* turns, int heads, int D) {
  for (int at = threadIdx.x * WIDE; at < heads * D; at += blockDim.x * WIDE) {
    pack<T, WIDE> v = load_pack<WIDE>(x + at);
#pragma unroll
    for (int k = 0; k < WIDE; k += 2) turn(v.v[k], v.v[k + 1], turns[(at % D + k) / 2]);
    store_pack(y + at, v);
  }
}

template <class T, int WIDE>
NK_DEV void copy(T* y, const T* x, int n) {
  for (int i = threadIdx.x * WIDE; i < n; i += blockDim.x * WIDE) store_pack(y + i, load_pack<WIDE>(x + i));
}

// y = x, the first `heads` heads of each row turned.   x, y (N, width), speeds (D/2,); row r is at positions[r mod P].
// Block (threads of a row, rows). wide: whether 16 bytes never cross a head's middle (halves) or end (pairs)
template <class T>
NK_DEV void rotary_rows(T* y, const T* x, const u8* positions, int position_bytes, const u64* speeds, float amplitude,
                   float direction, int N, int P, int heads, int D, int width, int pairs, int wide) {
  NK_DYNAMIC_SHARED(Turn, all_turns);
  int row = blockIdx.x * blockDim.y + threadIdx.y;
  Turn* turns = all_turns + threadIdx.y * (D / 2);
  if (row < N) {
    i64 position = integer_at(positions, row % P, position_bytes);
    for (int i = threadIdx.x; i < D / 2; i += blockDim.x) turns[i] = turn_at(position, speeds[i], amplitude, direction);
  }
  __syncthreads();
  if (row >= N) return;
  x += i64(row) * width;
  y += i64(row) * width;
  constexpr int WIDE = widest<T>;
  if (wide) {
    pairs ? turn_pairs<T, WIDE>(y, x, turns, heads, D) : turn_halves<T, WIDE>(y, x, turns, heads, D);
    copy<T, WIDE>(y + heads * D, x + heads * D, width - heads * D);
  } else {
    pairs ? turn_pairs<T, 2>(y, x, turns, heads, D) : turn_halves<T, 1>(y, x, turns, heads, D);
    copy<T, 1>(y + heads * D, x + heads * D, width - heads * D);
  }
}
NK_FLOATS(rotary_rows, 128,
          (T* y, const T* x, const u8* positions, int position_bytes, const u64* speeds, float amplitude,
           float direction, int N, int P, int heads, int D, int width, int pairs, int wide),
          (y, x, positions, position_bytes, speeds, amplitude, direction, N, P, heads, D, width, pairs, wide))
