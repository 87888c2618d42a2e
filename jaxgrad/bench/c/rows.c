/* Loss and gradient of the line's mean squared error over many rows, in one pass: the sums of a block in float, which
   the compiler spreads over vector lanes, and the blocks' sums in double; the blocks over all cores. */

#define BLOCK 4096

void rows(const float *x, const float *y, long rows, float w, float b, double *out)
{
    double loss = 0, slope_w = 0, slope_b = 0;
#pragma omp parallel for reduction(+ : loss, slope_w, slope_b) schedule(static)
    for (long start = 0; start < rows; start += BLOCK) {
        long end = start + BLOCK < rows ? start + BLOCK : rows;
        float block_loss = 0, block_w = 0, block_b = 0;
        for (long i = start; i < end; i++) {
            float off = w * x[i] + b - y[i];
            block_loss += off * off;
            block_w += off * x[i];
            block_b += off;
        }
        loss += block_loss;
        slope_w += block_w;
        slope_b += block_b;
    }
    out[0] = loss / rows;
    out[1] = 2 * slope_w / rows;
    out[2] = 2 * slope_b / rows;
}
