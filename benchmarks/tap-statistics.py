#!/usr/bin/env python3
"""Statistics of a tap store by layer: the root mean square, the largest magnitude, and the cosine to the layer before (not of
pca taps, which are components along other directions in each layer).

    benchmarks/tap-statistics.py STORE [PLOT.png]      (needs h5py and numpy; matplotlib for the plot)

STORE is the folder that --taps named. Prints one line a layer; reads at most 20,000 tokens.
"""
import pathlib
import sys

import h5py
import numpy as np

MOST_TOKENS = 20_000


def read_taps(store):
    """float32 [tokens, layers + 1, cols] of the first tokens, and the attributes of the store."""
    with h5py.File(pathlib.Path(store) / "index.h5") as file:
        attributes = {name: str(value.decode() if isinstance(value, bytes) else value) for name, value in file.attrs.items()}
        rows = file["taps"][:MOST_TOKENS]
        taps, cols = int(attributes["layers"]) + 1, int(attributes["cols"])
        rows = rows.reshape(len(rows), taps, cols)
        if attributes["numbers"] == "int8":
            scales = file["scales"][:MOST_TOKENS].reshape(len(rows), taps, -1).repeat(64, axis=2)[:, :, :cols]
            return rows.view(np.int8) * scales, attributes
    return rows if rows.dtype == np.float32 else (rows.astype(np.uint32) << 16).view(np.float32), attributes


def statistics(taps, kind):
    lengths = np.linalg.norm(taps, axis=2)
    products = (taps[:, 1:] * taps[:, :-1]).sum(axis=2)
    cosines = products / np.maximum(lengths[:, 1:] * lengths[:, :-1], 1e-30)
    return {
        "rms": np.sqrt((taps**2).mean(axis=(0, 2))),
        "largest": np.abs(taps).max(axis=(0, 2)),
        "cosine": np.concatenate(([np.nan], cosines.mean(axis=0) * (np.nan if kind == "pca" else 1))),
    }


def plot(values, title, path):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    panels = 1 if np.isnan(values["cosine"]).all() else 2
    figure, axes = pyplot.subplots(panels, 1, sharex=True, squeeze=False, figsize=(8, 3 * panels), layout="constrained")
    axes = axes[:, 0]
    axes[0].plot(values["largest"], marker=".", color="tab:orange", label="largest magnitude")
    axes[0].plot(values["rms"], marker=".", color="tab:blue", label="root mean square")
    axes[0].set(title=title, ylabel="magnitude", yscale="log")
    axes[0].yaxis.set_major_locator(ticker.LogLocator(subs=(1, 3)))
    axes[0].yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axes[0].yaxis.set_minor_formatter(ticker.NullFormatter())
    axes[0].legend()
    if panels == 2:
        axes[1].plot(values["cosine"], marker=".")
        axes[1].set(ylabel="cosine to the layer before")
    axes[-1].set(xlabel="layer (0: embedding)")
    axes[-1].xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    for axis in axes:
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    taps, attributes = read_taps(sys.argv[1])
    values = statistics(taps, attributes["kind"])
    print(f"{len(taps)} tokens\nlayer        rms    largest   cosine to the one before")
    for layer in range(taps.shape[1]):
        print(f"{layer:5d} {values['rms'][layer]:10.4g} {values['largest'][layer]:10.4g}   {values['cosine'][layer]:.3f}")
    if len(sys.argv) == 3:
        plot(values, f"{attributes['kind']} taps ({attributes['numbers']}) of {len(taps)} tokens", sys.argv[2])


if __name__ == "__main__":
    main()
