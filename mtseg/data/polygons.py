"""Polygons [x0, y0, x1, y1, ...] in pixels."""

from __future__ import annotations


def leaves(polygon: list[float], height: int, width: int) -> bool:
    """Whether a vertex is outside the image."""
    xs, ys = polygon[::2], polygon[1::2]
    return min(xs) < 0 or min(ys) < 0 or max(xs) > width or max(ys) > height


def clip(polygon: list[float], height: int, width: int) -> list[float]:
    """Clip to the image, one side after the other (Sutherland and Hodgman 1974). Empty if nothing is left. Parts of a
    concave polygon stay connected by edges along the border, which enclose no area."""
    points = list(zip(polygon[::2], polygon[1::2], strict=True))
    for axis, limit, sign in ((0, 0, 1), (0, width, -1), (1, 0, 1), (1, height, -1)):
        kept: list[tuple[float, float]] = []
        for a, b in zip(points[-1:] + points[:-1], points, strict=True):
            inside_a, inside_b = ((point[axis] - limit) * sign >= 0 for point in (a, b))
            if inside_a != inside_b:
                share = (limit - a[axis]) / (b[axis] - a[axis])
                kept.append((a[0] + share * (b[0] - a[0]), a[1] + share * (b[1] - a[1])))
            if inside_b:
                kept.append(b)
        points = kept
    return [value for point in points for value in point]
