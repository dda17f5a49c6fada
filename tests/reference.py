"""Every merge method once more, slow and obvious: float64, loops over elements, sorting, no code of ours.

`tensors` are lists of float32 arrays, `base` one. Methods that draw at random get the numbers they would draw.
"""

import math

import numpy as np


def deltas_of(tensors, base):
    return [(t - base).astype(np.float64) for t in tensors]


def flat(array):
    return [float(x) for x in np.asarray(array, np.float64).reshape(-1)]


def angle(a, b):
    a, b = flat(a), flat(b)
    lengths = math.sqrt(math.fsum(x * x for x in a)) * math.sqrt(math.fsum(x * x for x in b))
    return math.acos(max(-1.0, min(1.0, math.fsum(x * y for x, y in zip(a, b, strict=True)) / lengths)))


def length(a):
    return math.sqrt(math.fsum(x * x for x in flat(a)))


def linear(tensors, weights, normalize=False):
    total = sum(w * t.astype(np.float64) for w, t in zip(weights, tensors, strict=True))
    return total / sum(weights) if normalize else total


def arc(a, b, t, colinear):
    theta = angle(a, b)
    a, b = a.astype(np.float64), b.astype(np.float64)
    if abs(math.cos(theta)) > colinear:
        return (1 - t) * a + t * b
    return math.sin((1 - t) * theta) / math.sin(theta) * a + math.sin(t * theta) / math.sin(theta) * b


def slerp(tensors, weights):
    return arc(*tensors, weights[1] / sum(weights), 0.9995)


def nuslerp(tensors, weights, base=None, along="tensor"):
    t = weights[1] / sum(weights) if sum(weights) else 0.5
    origin = 0.0 if base is None else base
    a, b = (x - origin for x in tensors)
    if along == "tensor" or a.ndim == 1:
        return arc(a, b, t, 1 - 1e-14) + origin
    if along == "columns":
        a, b = a.T, b.T
    rows = np.stack([arc(x, y, t, 1 - 1e-14) for x, y in zip(a, b, strict=True)])
    return (rows.T if along == "columns" else rows) + origin


def multislerp(tensors, weights, base=None, normalize=True):
    """With the step in the tangent plane that ours leaves out."""
    origin = 0.0 if base is None else base.astype(np.float64)
    vectors = [t - origin for t in tensors]
    weights = np.array(weights) / sum(weights) if normalize else np.array(weights)
    units = [v / length(v) for v in vectors]
    mean = sum(w * u for w, u in zip(weights, units, strict=True))
    mean /= length(mean)
    tangent = sum(w * (u - (u * mean).sum() * mean) for w, u in zip(weights, units, strict=True))
    size = length(tangent) + 1e-30
    radius = sum(w * length(v) for w, v in zip(weights, vectors, strict=True))
    return radius * (math.cos(size) * mean + math.sin(size) / size * tangent) + origin


def karcher(tensors, weights):
    """Many short steps towards all models, on the sphere in full dimension."""
    weights = np.array(weights) / sum(weights)
    units = [t.astype(np.float64) / length(t) for t in tensors]
    mean = sum(w * u for w, u in zip(weights, units, strict=True))
    mean /= length(mean)
    for _ in range(25):
        pull = np.zeros_like(mean)
        for w, u in zip(weights, units, strict=True):
            theta = angle(mean, u)
            pull += w * (1 if theta < 1e-12 else theta / math.sin(theta)) * (u - math.cos(theta) * mean)
        mean = mean + 0.8 * pull
        mean /= length(mean)
    return mean * sum(w * length(t) for w, t in zip(weights, tensors, strict=True))


def combine(base, deltas, weights, vote=False, normalize=False, scale=1.0):
    """Element by element: who agrees with the weighted sum, and what they add up to."""
    out = np.zeros(base.size)
    columns = zip(*(flat(d) for d in deltas), strict=True)
    for i, column in enumerate(columns):
        parts = [w * d for w, d in zip(weights, column, strict=True)]
        total = math.fsum(parts)
        chosen = [j for j, part in enumerate(parts) if not vote or (part > 0 if total >= 0 else part < 0)]
        value = math.fsum(parts[j] for j in chosen)
        divisor = math.fsum(weights[j] for j in chosen)
        out[i] = scale * (value / divisor if normalize and abs(divisor) > 1e-8 else value)
    return base.astype(np.float64) + out.reshape(base.shape)


def task_arithmetic(tensors, weights, base, normalize=False, scale=1.0):
    return combine(base, deltas_of(tensors, base), weights, normalize=normalize, scale=scale)


def keep(delta, indices):
    out = np.zeros(delta.size)
    for i in indices:
        out[i] = delta.reshape(-1)[i]
    return out.reshape(delta.shape)


def by_size(delta):
    """Indices from the largest magnitude to the smallest; equal ones as they stand."""
    values = flat(delta)
    return sorted(range(len(values)), key=lambda i: (-abs(values[i]), i))


def same_l1(kept, delta):
    after = math.fsum(map(abs, flat(kept)))
    return kept * (math.fsum(map(abs, flat(delta))) / after) if after else kept


def ties(tensors, weights, base, density, normalize=True, rescale=False, scale=1.0):
    trimmed = []
    for delta, share in zip(deltas_of(tensors, base), density, strict=True):
        kept = keep(delta, by_size(delta)[: int(share * delta.size)])
        trimmed.append(same_l1(kept, delta) if rescale else kept)
    return combine(base, trimmed, weights, True, normalize, scale)


def breadcrumbs(tensors, weights, base, density, gamma, vote=False, normalize=False, rescale=False, scale=1.0):
    kept = []
    for delta, share, outliers in zip(deltas_of(tensors, base), density, gamma, strict=True):
        values, count = flat(delta), int(share * delta.size)
        order = sorted(range(len(values)), key=lambda i: (abs(values[i]), i))
        top = min(int(outliers * delta.size), delta.size - count)
        order = order[: delta.size - top]
        part = keep(delta, order[len(order) - count :] if share < 1 else range(delta.size))
        kept.append(same_l1(part, delta) if rescale else part)
    return combine(base, kept, weights, vote, normalize, scale)


def dare(tensors, weights, base, density, draws, vote=False, normalize=False, rescale=True, scale=1.0):
    kept = []
    for delta, share, numbers in zip(deltas_of(tensors, base), density, draws, strict=True):
        part = keep(delta, [i for i, number in enumerate(numbers) if number < share])
        kept.append(part / share if rescale else part)
    return combine(base, kept, weights, vote, normalize, scale)


def della(tensors, weights, base, density, epsilon, draws, vote=True, normalize=True, rescale=True, scale=1.0):
    kept = []
    for delta, share, spread, numbers in zip(deltas_of(tensors, base), density, epsilon, draws, strict=True):
        rows, drawn = np.atleast_2d(delta), np.reshape(numbers, np.atleast_2d(delta).shape)
        out = np.zeros(rows.shape)
        for r, row in enumerate(rows):
            order = sorted(range(len(row)), key=lambda i: (abs(row[i]), i))
            for rank, i in enumerate(order):
                chance = share - spread + 2 * spread * rank / (len(row) - 1)
                out[r, i] = row[i] / (chance if rescale is True else 1) if drawn[r, i] < chance else 0
        part = out.reshape(delta.shape)
        kept.append(same_l1(part, delta) if rescale == "l1" else part)
    return combine(base, kept, weights, vote, normalize, scale)


def sce(tensors, base, select_topk=1.0):
    deltas = deltas_of(tensors, base)
    spread = np.var(np.stack(deltas), axis=0)
    sizes = flat(spread)
    order = [i for i in by_size(spread) if sizes[i] > 0]
    chosen = order[: int(select_topk * len(order))] if select_topk < 1 else range(base.size)
    deltas = [keep(d, chosen) for d in deltas]
    energies = [math.fsum(x * x for x in flat(d)) for d in deltas]
    out = np.zeros(base.size)
    for i, column in enumerate(zip(*map(flat, deltas), strict=True)):
        up = math.fsum(column) >= 0
        agree = [j for j, d in enumerate(column) if (d > 0 if up else d < 0)]
        total = sum(energies[j] for j in agree)
        out[i] = sum(energies[j] * column[j] for j in agree) / total if total else 0
    return base + out.reshape(base.shape)


def model_stock(tensors, base, filter_wise=False):
    if filter_wise and base.ndim > 1:
        return np.stack([model_stock([t[r] for t in tensors], base[r]) for r in range(len(base))])
    deltas, count = deltas_of(tensors, base), len(tensors)
    pairs = [math.cos(angle(deltas[i], deltas[j])) for i in range(count) for j in range(i)]
    cosine = sum(pairs) / len(pairs)
    t = count * cosine / (1 + (count - 1) * cosine)
    return t * sum(x.astype(np.float64) for x in tensors) / count + (1 - t) * base


def ram(tensors, base, epsilon, r=0.0, alpha=0.0):
    """RAM, and with r RAM+: element by element, who changed it, and what of it is theirs alone."""
    deltas = [flat(t - base) for t in tensors]
    changed = [[abs(d) > np.float32(epsilon) for d in delta] for delta in deltas]
    counts = [sum(column) for column in zip(*changed, strict=True)]
    factors = []
    for mask in changed:
        shared = sum(m and count > 1 for m, count in zip(mask, counts, strict=True))
        alone = sum(m and count == 1 for m, count in zip(mask, counts, strict=True))
        ratio = shared / alone if alone else math.inf if shared else 0.0
        factors.append(1 + r * min(ratio, alpha))
    out = np.zeros(base.size)
    for i, count in enumerate(counts):
        for delta, mask, factor in zip(deltas, changed, factors, strict=True):
            if mask[i]:
                out[i] += delta[i] * factor if count == 1 else delta[i] / count
    return base.astype(np.float64) + out.reshape(base.shape)


def nearswap(tensor, base, t):
    out = []
    for a, b in zip(flat(base), flat(tensor), strict=True):
        out.append(b if abs(b - a) <= t or (abs(b - a) < 1e-6 and t >= 1e-6) else a + t * math.copysign(1, b - a))
    return np.reshape(out, base.shape) if t else base.astype(np.float64)


def arcee_fusion(tensor, base):
    """The fused tensor, and how many elements were taken over."""
    importance = []
    rows, below = (np.atleast_2d(x.reshape(-1, x.shape[-1])) for x in (tensor, base))
    for row, other in zip(rows, below, strict=True):
        p, q = (np.exp(x.astype(np.float64)) / math.fsum(np.exp(x.astype(np.float64))) + 1e-8 for x in (row, other))
        distance = math.fsum(x * math.log(x / y) for x, y in zip(p, q, strict=True))
        importance += [abs(x - y) * distance for x, y in zip(flat(row), flat(other), strict=True)]
    order = sorted(importance)
    low, median, high = (order[math.floor(q * (len(order) - 1))] for q in (0.25, 0.5, 0.75))
    fence = median + 1.5 * (high - low)
    chosen = [x >= fence * (1 - 1e-12) for x in importance]
    out = [b if take else a for a, b, take in zip(flat(base), flat(tensor), chosen, strict=True)]
    return np.reshape(out, base.shape), sum(chosen)
