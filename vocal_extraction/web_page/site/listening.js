// Stems as a browser's players take them: WAV files and spectrograms (reports/pictures.py).
import { Fft, hann } from "./signal.js";
import { saveFile } from "./storage.js";

const [LOWEST_HZ, HIGHEST_HZ] = [80, 16000];
const RANGE_DB = 75;
const [WIDTH, HEIGHT] = [480, 200];
const SHADES = [[0, 0, 4], [81, 18, 124], [183, 55, 121], [252, 137, 97], [252, 253, 191]];
export const WAV_HEADER = 44;

export function wavHeader(nSamples, nChannels, rate) {
  const header = new DataView(new ArrayBuffer(WAV_HEADER));
  const text = (at, letters) => [...letters].forEach((letter, i) => header.setUint8(at + i, letter.charCodeAt(0)));
  const frame = 2 * nChannels;
  for (const [at, letters] of [[0, "RIFF"], [8, "WAVEfmt "], [36, "data"]]) text(at, letters);
  for (const [at, value] of [[4, 36 + nSamples * frame], [16, 16], [24, rate], [28, rate * frame], [40, nSamples * frame]]) header.setUint32(at, value, true);
  for (const [at, value] of [[20, 1], [22, nChannels], [32, frame], [34, 16]]) header.setUint16(at, value, true);
  return header;
}

// The powers of a stem on the picture's grid, a column of HEIGHT after the other, the lowest frequency first.
function pictureOf(file, { nSamples, nChannels, rate }, highestHz) {
  const length = 2 ** Math.round(Math.log2(0.093 * rate));
  const [fft, window] = [new Fft(2 * length), hann(length)];
  const edges = Array.from({ length: HEIGHT + 1 }, (_, i) => Math.floor((LOWEST_HZ * (highestHz / LOWEST_HZ) ** (i / HEIGHT) * fft.n) / rate));
  const powers = new Float64Array(WIDTH * HEIGHT);
  for (let column = 0; column < WIDTH; column++) {
    const start = Math.floor((column * (nSamples - 1)) / (WIDTH - 1)) - length / 2;
    const [first, last] = [Math.max(0, start), Math.min(nSamples, start + length)];
    const samples = new Int16Array(Math.max(0, last - first) * nChannels);
    file.read(samples, WAV_HEADER + 2 * first * nChannels);
    const parts = [new Float64Array(fft.n), new Float64Array(fft.n)];
    samples.forEach((sample, i) => {
      const at = first - start + Math.floor(i / nChannels);
      parts[i % nChannels][at] = (sample / 32768) * window[at];
    });
    fft.transform(...parts);
    const [re, im] = parts;
    // Of two real signals as one complex one, the powers add up to half of those at a bin and at its mirror image.
    const power = (k) => (re[k] ** 2 + im[k] ** 2 + re[fft.n - k] ** 2 + im[fft.n - k] ** 2) / 2;
    for (let row = 0; row < HEIGHT; row++) {
      for (let k = edges[row]; k <= edges[row + 1]; k++) powers[column * HEIGHT + row] = Math.max(powers[column * HEIGHT + row], power(k));
    }
  }
  return powers;
}

// Writes a picture of each stem, on one scale: what is louder is brighter. Returns the limits of their frequency axis.
export async function drawSpectrograms(folder, stems, song) {
  const highestHz = Math.min(HIGHEST_HZ, song.rate / 2);
  const pictures = stems.map(({ file }) => pictureOf(file, song, highestHz));
  const loudest = Math.max(1e-12, ...pictures.map((powers) => powers.reduce((most, power) => Math.max(most, power), 0)));
  for (const [i, powers] of pictures.entries()) {
    const canvas = new OffscreenCanvas(WIDTH, HEIGHT);
    const image = new ImageData(WIDTH, HEIGHT);
    powers.forEach((power, j) => {
      const shade = (SHADES.length - 1) * Math.min(1, Math.max(0, 1 + (10 * Math.log10(Math.max(power, 1e-24) / loudest)) / RANGE_DB));
      const [from, to] = [SHADES[Math.floor(shade)], SHADES[Math.ceil(shade)]];
      const pixel = (HEIGHT - 1 - (j % HEIGHT)) * WIDTH + Math.floor(j / HEIGHT);
      image.data.set([...from.map((value, colour) => value + (to[colour] - value) * (shade % 1)), 255], 4 * pixel);
    });
    canvas.getContext("2d").putImageData(image, 0, 0);
    await saveFile(folder, `${stems[i].name}.png`, await (await canvas.convertToBlob()).arrayBuffer());
  }
  return { lowest_hz: LOWEST_HZ, highest_hz: highestHz };
}
