/* The lesson's loop: predict, measure, differentiate, adjust; the loss of every step is kept.
   POINTS is known when this is compiled, as it is to JAX. */

void lesson(const float *x, const float *y, float w, float b, float learning_rate, long steps, float *losses, float *end)
{
    for (long step = 0; step < steps; step++) {
        float loss = 0, slope_w = 0, slope_b = 0;
        for (int i = 0; i < POINTS; i++) {
            float off = w * x[i] + b - y[i];
            loss += off * off;
            slope_w += off * x[i];
            slope_b += off;
        }
        losses[step] = loss / POINTS;
        w -= learning_rate * (2.0f / POINTS) * slope_w;
        b -= learning_rate * (2.0f / POINTS) * slope_b;
    }
    end[0] = w;
    end[1] = b;
}
