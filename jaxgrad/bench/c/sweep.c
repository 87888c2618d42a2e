/* Many runs of the lesson's loop, each with its own start and learning rate; the runs over all cores. */

#define LANES 64

/* One run after the other. */
void one_by_one(const float *x, const float *y, const float *rates, long runs, long steps, float *w, float *b, float *loss)
{
#pragma omp parallel for schedule(static)
    for (long run = 0; run < runs; run++) {
        float at_w = w[run], at_b = b[run], factor = rates[run] * (2.0f / POINTS), total = 0;
        for (long step = 0; step < steps; step++) {
            float slope_w = 0, slope_b = 0;
            total = 0;
            for (int i = 0; i < POINTS; i++) {
                float off = at_w * x[i] + at_b - y[i];
                total += off * off;
                slope_w += off * x[i];
                slope_b += off;
            }
            at_w -= factor * slope_w;
            at_b -= factor * slope_b;
        }
        w[run] = at_w;
        b[run] = at_b;
        loss[run] = total / POINTS;
    }
}

/* LANES runs side by side, so that vector instructions do the same step of many runs at once. */
void in_lanes(const float *x, const float *y, const float *rates, long runs, long steps, float *w, float *b, float *loss)
{
#pragma omp parallel for schedule(static)
    for (long start = 0; start < runs; start += LANES) {
        long count = runs - start < LANES ? runs - start : LANES;
        float at_w[LANES] = {0}, at_b[LANES] = {0}, factor[LANES] = {0}, total[LANES] = {0};
        for (long lane = 0; lane < count; lane++) {
            at_w[lane] = w[start + lane];
            at_b[lane] = b[start + lane];
            factor[lane] = rates[start + lane] * (2.0f / POINTS);
        }
        for (long step = 0; step < steps; step++)
            for (int lane = 0; lane < LANES; lane++) {
                float slope_w = 0, slope_b = 0, squares = 0;
                for (int i = 0; i < POINTS; i++) {
                    float off = at_w[lane] * x[i] + at_b[lane] - y[i];
                    squares += off * off;
                    slope_w += off * x[i];
                    slope_b += off;
                }
                total[lane] = squares;
                at_w[lane] -= factor[lane] * slope_w;
                at_b[lane] -= factor[lane] * slope_b;
            }
        for (long lane = 0; lane < count; lane++) {
            w[start + lane] = at_w[lane];
            b[start + lane] = at_b[lane];
            loss[start + lane] = total[lane] / POINTS;
        }
    }
}
