"""The rasteriser's kernels, in Warp's dialect: compiled for CPU and CUDA, not run as Python.

`raster` finds the nearest triangle of each pixel, `shade` gives it its colour and depth.
"""

import warp as wp

FAR = wp.constant(wp.int64(0x7FFFFFFFFFFFFFFF))


@wp.func
def edge(a: wp.vec3, b: wp.vec3, x: float, y: float):
    return (b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0])


@wp.kernel
def raster(
    screen: wp.array2d(dtype=wp.vec3),  # x, y in pixels; z
    faces: wp.array(dtype=wp.vec3i),
    perspective: int,
    keys: wp.array3d(dtype=wp.int64),
):
    image, f = wp.tid()
    a = screen[image, faces[f][0]]
    b = screen[image, faces[f][1]]
    c = screen[image, faces[f][2]]
    area = edge(a, b, c[0], c[1])
    if perspective == 1 and wp.min(a[2], wp.min(b[2], c[2])) < 1.0e-3:
        return
    if wp.abs(area) < 1.0e-9:
        return
    x0 = wp.max(int(wp.ceil(wp.min(a[0], wp.min(b[0], c[0])))), 0)
    x1 = wp.min(int(wp.floor(wp.max(a[0], wp.max(b[0], c[0])))), keys.shape[2] - 1)
    y0 = wp.max(int(wp.ceil(wp.min(a[1], wp.min(b[1], c[1])))), 0)
    y1 = wp.min(int(wp.floor(wp.max(a[1], wp.max(b[1], c[1])))), keys.shape[1] - 1)
    for y in range(y0, y1 + 1):
        for x in range(x0, x1 + 1):
            u = edge(b, c, float(x), float(y)) / area
            v = edge(c, a, float(x), float(y)) / area
            w = 1.0 - u - v
            if u >= 0.0 and v >= 0.0 and w >= 0.0:
                z = u * a[2] + v * b[2] + w * c[2]
                if perspective == 1:
                    z = 1.0 / (u / a[2] + v / b[2] + w / c[2])
                key = (wp.int64(z * 1.0e6 + 1.0e7) << wp.int64(24)) | wp.int64(f)
                wp.atomic_min(keys, image, y, x, key)


@wp.func
def hash01(x: int, y: int, z: int):
    n = (
        wp.uint32(x) * wp.uint32(374761393)
        + wp.uint32(y) * wp.uint32(668265263)
        + wp.uint32(z) * wp.uint32(2147483647)
    )
    n = (n ^ (n >> wp.uint32(13))) * wp.uint32(1274126177)
    n = n ^ (n >> wp.uint32(16))
    return float(n & wp.uint32(65535)) / 65535.0


@wp.func
def value_noise(p: wp.vec3):
    x = int(wp.floor(p[0]))
    y = int(wp.floor(p[1]))
    z = int(wp.floor(p[2]))
    fx = p[0] - wp.floor(p[0])
    fy = p[1] - wp.floor(p[1])
    fz = p[2] - wp.floor(p[2])
    a = wp.lerp(
        wp.lerp(hash01(x, y, z), hash01(x + 1, y, z), fx),
        wp.lerp(hash01(x, y + 1, z), hash01(x + 1, y + 1, z), fx),
        fy,
    )
    b = wp.lerp(
        wp.lerp(hash01(x, y, z + 1), hash01(x + 1, y, z + 1), fx),
        wp.lerp(hash01(x, y + 1, z + 1), hash01(x + 1, y + 1, z + 1), fx),
        fy,
    )
    return wp.lerp(a, b, fz) - 0.5


# Thirteen parameters: a kernel has no structures of arrays, each buffer is one.
@wp.kernel
def shade(
    camera: wp.array2d(dtype=wp.vec3),  # vertices in the camera frame, metres
    screen: wp.array2d(dtype=wp.vec3),
    normals: wp.array2d(dtype=wp.vec3),
    rest: wp.array(dtype=wp.vec3),  # the template: where the texture lives
    along_arm: wp.array(dtype=float),
    albedo: wp.array2d(dtype=wp.vec3),
    faces: wp.array(dtype=wp.vec3i),
    keys: wp.array3d(dtype=wp.int64),
    light_view: wp.array2d(dtype=wp.vec3),
    light_keys: wp.array3d(dtype=wp.int64),
    look: wp.array2d(dtype=float),
    rgb: wp.array3d(dtype=wp.vec3),
    depth: wp.array3d(dtype=float),
):
    image, y, x = wp.tid()
    key = keys[image, y, x]
    if key == FAR:
        return
    f = faces[int(key & wp.int64(16777215))]
    a = screen[image, f[0]]
    b = screen[image, f[1]]
    c = screen[image, f[2]]
    area = edge(a, b, c[0], c[1])
    u = edge(b, c, float(x), float(y)) / area
    v = edge(c, a, float(x), float(y)) / area
    z = 1.0 / (u / a[2] + v / b[2] + (1.0 - u - v) / c[2])
    u = u * z / a[2]
    v = v * z / b[2]
    w = 1.0 - u - v
    depth[image, y, x] = z
    n = wp.normalize(u * normals[image, f[0]] + v * normals[image, f[1]] + w * normals[image, f[2]])
    p = u * camera[image, f[0]] + v * camera[image, f[1]] + w * camera[image, f[2]]
    view = -wp.normalize(p)
    if wp.dot(n, view) < 0.0:
        n = -n
    q = u * rest[f[0]] + v * rest[f[1]] + w * rest[f[2]]
    skin = u * albedo[image, f[0]] + v * albedo[image, f[1]] + w * albedo[image, f[2]]
    arm = u * along_arm[f[0]] + v * along_arm[f[1]] + w * along_arm[f[2]]
    grain = value_noise(q * 180.0) + value_noise(q * 500.0) + 0.5 * value_noise(q * 1100.0)
    skin = skin * (1.0 + look[image, 19] * grain)
    gloss = look[image, 18]
    if arm > look[image, 20] + 0.004 * value_noise(q * 60.0):
        gloss = 0.0
        skin = wp.vec3(look[image, 21], look[image, 22], look[image, 23])
        if look[image, 27] > 0.0 and wp.sin(6.2832 * look[image, 27] * arm) > 0.0:
            skin = wp.vec3(look[image, 24], look[image, 25], look[image, 26])
        skin = skin * (1.0 + 0.5 * value_noise(q * 90.0) + 0.4 * value_noise(q * 900.0))
    up = 0.5 - 0.5 * n[1]
    light = wp.vec3(
        wp.lerp(look[image, 15], look[image, 12], up),
        wp.lerp(look[image, 16], look[image, 13], up),
        wp.lerp(look[image, 17], look[image, 14], up),
    )
    shine = wp.vec3(0.0, 0.0, 0.0)
    for lamp in range(2):
        d = wp.vec3(look[image, 3 * lamp], look[image, 3 * lamp + 1], look[image, 3 * lamp + 2])
        colour = wp.vec3(
            look[image, 6 + 3 * lamp], look[image, 7 + 3 * lamp], look[image, 8 + 3 * lamp]
        )
        lit = 1.0
        if lamp == 0:
            s = (
                u * light_view[image, f[0]]
                + v * light_view[image, f[1]]
                + w * light_view[image, f[2]]
            )
            blocked = 0.0
            for dy in range(2):
                for dx in range(2):
                    sx = wp.clamp(int(s[0]) + dx, 0, light_keys.shape[2] - 1)
                    sy = wp.clamp(int(s[1]) + dy, 0, light_keys.shape[1] - 1)
                    nearest = light_keys[image, sy, sx]
                    if (
                        nearest != FAR
                        and s[2] - (float(nearest >> wp.int64(24)) * 1.0e-6 - 10.0) > 0.006
                    ):
                        blocked += 0.25
            lit = 1.0 - blocked
        # Light scattered below the skin softens the terminator and reddens it.
        cosine = wp.dot(n, d)
        wrapped = wp.vec3(
            wp.max((cosine + 0.35) / 1.35, 0.0),
            wp.max((cosine + 0.18) / 1.18, 0.0),
            wp.max((cosine + 0.12) / 1.12, 0.0),
        )
        light = light + lit * wp.cw_mul(colour, wrapped)
        h = wp.normalize(d + view)
        shine = shine + lit * gloss * wp.pow(wp.max(wp.dot(n, h), 0.0), 18.0) * colour
    rgb[image, y, x] = wp.cw_mul(skin, light) + shine
