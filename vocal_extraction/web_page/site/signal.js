// Signals for separation.js: the Fourier transform, a song's level and high-pass (separation/input_conditioning.py), and
// what the players show.

const CUTOFF_HZ = 25;
const MARGIN_S = 0.2;
const LEAST_CORRELATION = 0.35;
const SILENCE = 1e-3;

// The transform of a power of two complex numbers, in place (Cooley and Tukey, 1965). Called with the real and the
// imaginary parts exchanged, it is the inverse times n.
export class Fft {
  constructor(n) {
    this.n = n;
    this.cos = Float64Array.from({ length: n / 2 }, (_, i) => Math.cos((2 * Math.PI * i) / n));
    this.sin = Float64Array.from({ length: n / 2 }, (_, i) => -Math.sin((2 * Math.PI * i) / n));
    this.order = new Uint32Array(n);
    for (let i = 1; i < n; i++) this.order[i] = (this.order[i >> 1] >> 1) | (i & 1 ? n / 2 : 0);
  }

  transform(re, im) {
    const { n, cos, sin, order } = this;
    for (let i = 0; i < n; i++) {
      const j = order[i];
      if (j > i) {
        let swapped = re[i];
        re[i] = re[j];
        re[j] = swapped;
        swapped = im[i];
        im[i] = im[j];
        im[j] = swapped;
      }
    }
    for (let half = 1; half < n; half *= 2) {
      const turn = n / 2 / half;
      for (let block = 0; block < n; block += 2 * half) {
        for (let i = block, j = block + half, k = 0; k < n / 2; i++, j++, k += turn) {
          const x = re[j] * cos[k] - im[j] * sin[k];
          const y = re[j] * sin[k] + im[j] * cos[k];
          re[j] = re[i] - x;
          im[j] = im[i] - y;
          re[i] += x;
          im[i] += y;
        }
      }
    }
  }
}

export const hann = (n) => Float64Array.from({ length: n }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * (i + 1)) / (n + 1)));

// Power of each channel, and the product of both, in a stretch of a song under a Hann window, slow waves aside. The
// channels go through the transform as one complex signal.
export function covariance([left, right], window, sampleRate, fft) {
  const [re, im] = [new Float64Array(fft.n), new Float64Array(fft.n)];
  window.forEach((value, i) => {
    re[i] = left[i] * value;
    im[i] = right[i] * value;
  });
  fft.transform(re, im);
  const sums = [0, 0, 0];
  for (let k = Math.ceil((CUTOFF_HZ * fft.n) / sampleRate), m = fft.n - k; k < m; k++, m--) {
    const [a, b, c, d] = [re[k] + re[m], im[k] - im[m], im[k] + im[m], re[m] - re[k]];
    sums[0] += a * a + b * b;
    sums[1] += c * c + d * d;
    sums[2] += a * c + b * d;
  }
  const scale = 2 * fft.n * window.reduce((sum, value) => sum + value * value, 0);
  return sums.map((sum) => sum / scale);
}

// From the seconds' [power, power, product]: the factor that brings a song to a level, and whether its two channels have
// much in common; opposite polarity counts only where the network takes one view at a time.
export function levelOf(seconds, nChannels, levelDb, together) {
  const powers = seconds.flatMap((second) => second.slice(0, nChannels));
  const mean = powers.reduce((sum, power) => sum + power, 0) / powers.length;
  const sounding = powers.filter((power) => power > SILENCE * mean);
  const power = sounding.reduce((sum, one) => sum + one, 0) / sounding.length;
  const [one, other, both] = [0, 1, 2].map((i) => seconds.reduce((sum, second) => sum + second[i], 0));
  const gain = levelDb !== null && power > 0 ? 10 ** (levelDb / 20) / Math.sqrt(power) : 1;
  const common = together === 2 ? both : Math.abs(both);
  return { gain, areAlike: !(common <= LEAST_CORRELATION * Math.sqrt(one * other)) };
}

// Removes offset and waves below the cutoff from blocks of two signals that have `margin` more samples on both sides.
export class HighPass {
  constructor(sampleRate) {
    this.margin = Math.round(MARGIN_S * sampleRate);
    this.fft = new Fft(2 ** Math.ceil(Math.log2(8 * this.margin)));
    this.length = this.fft.n - 2 * this.margin;
    const window = hann(2 * this.margin + 1);
    const taps = window.map((value, i) => {
      const x = ((2 * CUTOFF_HZ) / sampleRate) * (i - this.margin);
      return value * (x ? Math.sin(Math.PI * x) / (Math.PI * x) : 1);
    });
    const sum = taps.reduce((total, tap) => total + tap, 0);
    this.response = new Float64Array(this.fft.n);
    taps.forEach((tap, i) => { this.response[(i - this.margin + this.fft.n) % this.fft.n] = tap / sum; });
    this.fft.transform(this.response, new Float64Array(this.fft.n));
  }

  // `a` and `b` have fft.n samples; those in the middle, `length` of them, come out changed.
  process(a, b) {
    const [re, im] = [a.slice(), b.slice()];
    this.fft.transform(re, im);
    for (let k = 0; k < re.length; k++) {
      re[k] *= this.response[k] / this.fft.n;
      im[k] *= this.response[k] / this.fft.n;
    }
    this.fft.transform(im, re);
    for (let i = 0; i < re.length; i++) {
      a[i] -= re[i];
      b[i] -= im[i];
    }
  }
}
