"""Does a phantom look like a microscope's image? Grey values, power spectrum and a picture beside fib25.

    python benchmarks/phantom_likeness.py            # prints figures and writes docs/images/phantom_*.png

The real image is fib25 (10 nm, CC BY, Takemura et al.); the phantom is drawn with voxels of 10 nm, too.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
from _data import data_path, hardware
from matplotlib.figure import Figure

from asem_sources.phantom import Phantom

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
NUM_PLANES = 48
BINS = np.geomspace(0.01, 0.5, 13)


def real() -> np.ndarray:
    files = sorted(data_path("fib25/raw").glob("*.tif"))[:NUM_PLANES]
    return np.stack([tifffile.imread(f) for f in files])


def phantom(look: str, scene: str = "corner") -> np.ndarray:
    """Draw a phantom as large and as coarse as the real stack."""
    made = Phantom(
        size_nm=(NUM_PLANES * 10, 2500, 2500), voxel_size_nm=10, scene=scene, look=look, seed=3, inverted=False
    )
    return made.open().read()


def spectrum(image: np.ndarray) -> np.ndarray:
    """Mean power of the planes in rings of spatial frequency, in grey values squared."""
    window = np.hanning(image.shape[1])[:, None] * np.hanning(image.shape[2])
    power = np.zeros(image.shape[1:])
    for plane in image[::4].astype(float):
        power += np.abs(np.fft.fft2((plane - plane.mean()) * window)) ** 2
    power /= len(image[::4]) * (window**2).sum()
    radius = np.hypot(np.fft.fftfreq(image.shape[1])[:, None], np.fft.fftfreq(image.shape[2]))
    ring = np.digitize(radius, BINS)
    return np.array([power[ring == i].mean() for i in range(1, len(BINS))])


def main() -> None:
    images = {"fib25 (real)": real(), "phantom, cf": phantom("cf"), "phantom, hpfs": phantom("hpfs")}
    spectra = {name: spectrum(image) for name, image in images.items()}
    print("grey values: mean, standard deviation, percentiles 1 5 25 50 75 95 99")
    for name, image in images.items():
        cuts = np.percentile(image, [1, 5, 25, 50, 75, 95, 99]).astype(int)
        print(f"  {name:15} {image.mean():6.1f} {image.std():6.1f}   {' '.join(f'{c:4d}' for c in cuts)}")
    middle = np.sqrt(BINS[1:] * BINS[:-1])
    print("power (grey^2) by spatial frequency (cycles per voxel of 10 nm)")
    print("  " + " " * 15 + "".join(f"{f:9.3f}" for f in middle))
    for name, power in spectra.items():
        print(f"  {name:15}" + "".join(f"{p:9.0f}" for p in power))
    steep = {n: -np.polyfit(np.log(middle[6:10]), np.log(p[6:10]), 1)[0] for n, p in spectra.items()}
    print("fall from 0.09 to 0.3 cycles: power ~ f^-a, a = " + ", ".join(f"{n} {a:.1f}" for n, a in steep.items()))
    draw(images, spectra, middle)
    print(f"written: {IMAGES / 'phantom_beside_fib25.png'}")
    print(hardware())


def draw(images: dict[str, np.ndarray], spectra: dict[str, np.ndarray], middle: np.ndarray) -> None:
    figure = Figure(figsize=(12, 7.2), layout="constrained")
    axes = figure.subplots(2, 3)
    for ax, (name, image) in zip(axes[0], images.items(), strict=True):
        ax.imshow(image[20], cmap="gray", vmin=0, vmax=255)
        ax.set_title(name)
        ax.set_axis_off()
    for name, image in images.items():
        axes[1, 0].plot(np.bincount(image.ravel(), minlength=256) / image.size, label=name)
        axes[1, 1].loglog(middle, spectra[name], "o-", ms=3, label=name)
    axes[1, 0].set(xlabel="grey value", ylabel="share of voxels")
    axes[1, 1].set(xlabel="spatial frequency (cycles per voxel)", ylabel="power (grey²)")
    axes[1, 0].legend()
    fine = Phantom(size_nm=(400, 1250, 1250), seed=7).open().read()
    axes[1, 2].imshow(fine[40], cmap="gray", vmin=0, vmax=255)
    axes[1, 2].set_title("phantom, cf, voxels of 5 nm")
    axes[1, 2].set_axis_off()
    IMAGES.mkdir(parents=True, exist_ok=True)
    figure.savefig(IMAGES / "phantom_beside_fib25.png", dpi=90)


if __name__ == "__main__":
    main()
