/* Mini-batch descent: the row numbers are shuffled once an epoch, then taken in groups of `size`; the loss of every
   step is kept. A last group that is too short for a batch is completed from the next epoch. Where `taken` is not null,
   the row numbers of all steps are written there. */

#include <stdint.h>

static uint64_t next_random(uint64_t *state) /* xorshift64* */
{
    uint64_t s = *state;
    s ^= s >> 12;
    s ^= s << 25;
    s ^= s >> 27;
    *state = s;
    return s * 0x2545F4914F6CDD1DULL;
}

static void shuffle(uint32_t *order, long rows, uint64_t *state) /* Fisher and Yates */
{
    for (long i = rows - 1; i > 0; i--) {
        long j = (long)(((unsigned __int128)next_random(state) * (uint64_t)(i + 1)) >> 64);
        uint32_t kept = order[i];
        order[i] = order[j];
        order[j] = kept;
    }
}

void batches(const float *x, const float *y, uint32_t *order, long rows, long size, float learning_rate, long steps,
             uint64_t seed, float *losses, float *params, uint32_t *taken)
{
    float w = params[0], b = params[1];
    uint64_t state = seed * 2 + 1;
    long at = rows;
    for (long i = 0; i < rows; i++)
        order[i] = (uint32_t)i;
    for (long step = 0; step < steps; step++) {
        float loss = 0, slope_w = 0, slope_b = 0;
        for (long k = 0, n; k < size; k += n) {
            if (at == rows) {
                shuffle(order, rows, &state);
                at = 0;
            }
            n = rows - at < size - k ? rows - at : size - k;
            for (long i = at; i < at + n; i++) {
                float off = w * x[order[i]] + b - y[order[i]];
                loss += off * off;
                slope_w += off * x[order[i]];
                slope_b += off;
            }
            for (long i = at; taken && i < at + n; i++)
                *taken++ = order[i];
            at += n;
        }
        losses[step] = loss / size;
        w -= learning_rate * 2 / size * slope_w;
        b -= learning_rate * 2 / size * slope_b;
    }
    params[0] = w;
    params[1] = b;
}
