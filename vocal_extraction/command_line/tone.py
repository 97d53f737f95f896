"""A pure tone, written and measured in plain Python: what the doctor feeds to sox and ffmpeg.

No NumPy here, so that the doctor can still speak where NumPy cannot be imported.
"""

import array
import math
import sys
import wave
from pathlib import Path

SAMPLE_RATE = 44_100
TONE_HZ = 440.0
TONE_S = 1.0


def write_tone(path: Path) -> None:
    """Write one second of 440 Hz to `path`: mono, 16-bit, at half of full scale."""
    n_samples = round(TONE_S * SAMPLE_RATE)
    step = 2 * math.pi * TONE_HZ / SAMPLE_RATE
    samples = array.array("h", (round(16_384 * math.sin(step * i)) for i in range(n_samples)))
    if sys.byteorder == "big":
        samples.byteswap()
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(samples.tobytes())


def measure_tone(path: Path) -> tuple[float, float]:
    """Return frequency in Hz and length in seconds of the 16-bit mono tone at `path`.

    The frequency is counted from rising zero crossings in the middle half of the file, where no effect fades in or
    out; 0.0 where nothing swings.

    Raises
    ------
    ValueError
        If the file is not a 16-bit mono wav.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_tone(Path(folder) / "tone.wav")
    ...     frequency_hz, length_s = measure_tone(Path(folder) / "tone.wav")
    >>> round(frequency_hz), length_s
    (440, 1.0)
    """
    try:
        with wave.open(str(path), "rb") as file:
            if (file.getnchannels(), file.getsampwidth()) != (1, 2):
                raise ValueError(f"{path.name} is not a 16-bit mono wav")
            sample_rate, n_samples = file.getframerate(), file.getnframes()
            samples = array.array("h", file.readframes(n_samples))
    except (wave.Error, EOFError, OSError, RuntimeError) as error:
        # wave raises a RuntimeError without a text where a chunk ends beyond the file.
        raise ValueError(f"{path.name} cannot be read ({str(error) or 'its parts do not fit'})") from error
    if sys.byteorder == "big":
        samples.byteswap()
    quarter = len(samples) // 4
    rising = [i for i in range(quarter + 1, 3 * quarter) if samples[i - 1] < 0 <= samples[i]]
    if len(rising) < 2:
        return 0.0, n_samples / sample_rate
    return (len(rising) - 1) * sample_rate / (rising[-1] - rising[0]), n_samples / sample_rate
