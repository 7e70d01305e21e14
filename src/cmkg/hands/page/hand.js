// A hand student in the browser: what cmkg/hands/inference does in Python, with the same numbers.
// A box is {x, y, side}: its middle and its side, in pixels. A place is {box, side, towards}: whose
// hand, and which way of the picture is up for the network. Matrices are rows of nine numbers.

const FOCAL = 1.2; // of a picture's longer side: a usual lens
const REACH = 0.75; // of a box's side, to each side of its middle: what is fetched of the picture
const FINE = 1.5; // pixels fetched for each of the network's
const PASSES = 3;
const STILL = 0.85;
const BIGGER = 1.6, SMALLER = 0.9;
const LOOSE = 1.2; // times the protocol's box
const SHARES = [1.0, 0.6];
const MOST_IN_A_ROW = 12;
const IS_HAND = 0.998, FOUND = 0.4, LOST = 0.35; // see hand.py
const SAME_HAND = 0.5;
const WRIST = 0;
const MIDDLE_MCP = 9;
const UP = [0, -1];
const WAYS = [UP, [1, 0], [0, 1], [-1, 0]]; // a hand may point, where nobody says it
const SAME_WAY = 0.97; // cosine of two ways
const AVERAGED_DEG = [-20, 20], AVERAGED_ZOOM = 0.9; // of the looks beside the last one
const FIRST = 6; // places in a picture that are looked at closely
const SURE = 0.15; // the finder's score of what is looked at closely
const BESIDE = 0.5; // of the surest hand's score, that others have
const MOST = 8;
const STRIDE = 8; // of the finder's maps
const MULTIPLE = 32;
const LARGER = 2; // times the finder's picture, where it finds nothing

// ---- matrices and cameras ----------------------------------------------------------------------
const multiply = (a, b) =>
  Array.from({ length: 9 }, (_, i) => {
    const row = 3 * Math.floor(i / 3), column = i % 3;
    return a[row] * b[column] + a[row + 1] * b[column + 3] + a[row + 2] * b[column + 6];
  });

const transposed = (m) => [m[0], m[3], m[6], m[1], m[4], m[7], m[2], m[5], m[8]];

function inverse(m) {
  const [a, b, c, d, e, f, g, h, i] = m;
  const A = e * i - f * h, B = f * g - d * i, C = d * h - e * g;
  const det = a * A + b * B + c * C;
  return [A, c * h - b * i, b * f - c * e, B, a * i - c * g, c * d - a * f, C, b * g - a * h, a * e - b * d]
    .map((value) => value / det);
}

function mapped(m, x, y) {
  const w = m[6] * x + m[7] * y + m[8];
  return [(m[0] * x + m[1] * y + m[2]) / w, (m[3] * x + m[4] * y + m[5]) / w];
}

// The smallest rotation that takes a direction to +z.
function rotationToAxis([x, y, z]) {
  const length = Math.hypot(x, y, z);
  const [a, b, c] = [x / length, y / length, z / length];
  const sine = Math.hypot(a, b);
  if (sine < 1e-9) return [1, 0, 0, 0, 1, 0, 0, 0, 1];
  const [u, v] = [b / sine, -a / sine]; // the axis: direction x z, in the picture's plane
  const k = 1 - c;
  return [c + u * u * k, u * v * k, v * sine, u * v * k, c + v * v * k, -u * sine, -v * sine, u * sine, c];
}

// The camera that looks at a place and sees its box over px pixels, and the way there.
function viewOf(width, height, { box, side, towards }, px) {
  const mirrored = side === "left";
  const focal = FOCAL * Math.max(width, height);
  const cx = (width - 1) / 2, cy = (height - 1) / 2;
  const K = [focal, 0, cx, 0, focal, cy, 0, 0, 1];
  const x = mirrored ? width - 1 - box.x : box.x;
  const ray = [(x - cx) / focal, (box.y - cy) / focal, 1];
  const [right, down] = [mirrored ? -towards[0] : towards[0], towards[1]];
  const R = multiply([-down, right, 0, -right, -down, 0, 0, 0, 1], rotationToAxis(ray));
  const own = (focal * Math.hypot(...ray) * px) / box.side;
  const middle = px / 2 - 0.5;
  const KView = [own, 0, middle, 0, own, middle, 0, 0, 1];
  const flip = mirrored ? [-1, 0, width - 1, 0, 1, 0, 0, 0, 1] : [1, 0, 0, 0, 1, 0, 0, 0, 1];
  const toView = multiply(multiply(multiply(KView, R), inverse(K)), flip);
  return { R, fromView: inverse(toView), mirrored };
}

// ---- boxes -------------------------------------------------------------------------------------
export function boxOf(points) {
  const [x, y] = points[MIDDLE_MCP];
  return { x, y, side: 2 * Math.max(...points.map(([u, v]) => Math.max(Math.abs(u - x), Math.abs(v - y)))) };
}

// From the wrist to the middle MCP, of length 1.
function directionOf(points) {
  const x = points[MIDDLE_MCP][0] - points[WRIST][0], y = points[MIDDLE_MCP][1] - points[WRIST][1];
  const length = Math.hypot(x, y);
  return length > 1e-6 ? [x / length, y / length] : UP;
}

function agree(a, b) {
  const cosine = a.towards[0] * b.towards[0] + a.towards[1] * b.towards[1];
  return overlap(a.box, b.box) > STILL && cosine > SAME_WAY;
}

function shared(a, b) {
  const half = (a.side + b.side) / 2, widest = Math.min(a.side, b.side);
  const along = (p, q) => Math.max(Math.min(half - Math.abs(p - q), widest), 0);
  return along(a.x, b.x) * along(a.y, b.y);
}

const overlap = (a, b) => shared(a, b) / (a.side ** 2 + b.side ** 2 - shared(a, b));
export const isSameHand = (a, b) => shared(a, b) > SAME_HAND * Math.min(a.side, b.side) ** 2;
const towards = (a, b) => ({ ...b, side: Math.min(Math.max(b.side, a.side * SMALLER), a.side * BIGGER) });
const loosened = (box) => ({ ...box, side: LOOSE * box.side });

// Where a hand may be in a picture that nobody knows.
function firstBoxes(width, height) {
  const boxes = [{ x: width / 2, y: height / 2, side: Math.max(width, height) }];
  for (const share of SHARES) {
    const side = share * Math.min(width, height);
    const middles = (length) => {
      const count = Math.min(Math.max(Math.round((length - side) / (side / 2)) + 1, 1), MOST_IN_A_ROW);
      if (count === 1) return [length / 2];
      return Array.from({ length: count }, (_, i) => side / 2 + (i * (length - side)) / (count - 1));
    };
    for (const y of middles(height)) for (const x of middles(width)) boxes.push({ x, y, side });
  }
  return boxes;
}

// ---- pictures ----------------------------------------------------------------------------------
const scratch = new OffscreenCanvas(1, 1);

// The part of the picture that a box can show, as pixels, and where it lies.
function fetchRegion(source, width, height, box, px) {
  const reach = REACH * box.side;
  const span = (middle, size) => {
    const first = Math.trunc(Math.min(Math.max(middle - reach, 0), size - 1));
    return [first, Math.trunc(Math.min(Math.max(middle + reach, first + 1), size))];
  };
  const [x0, x1] = span(box.x, width), [y0, y1] = span(box.y, height);
  const shrink = Math.max(Math.floor(box.side / (FINE * px)), 1);
  const w = Math.max(Math.floor((x1 - x0) / shrink), 1), h = Math.max(Math.floor((y1 - y0) / shrink), 1);
  scratch.width = w;
  scratch.height = h;
  const context = scratch.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.fillStyle = "#fff"; // behind what is transparent, as in Python
  context.fillRect(0, 0, w, h);
  context.drawImage(source, x0, y0, w * shrink, h * shrink, 0, 0, w, h);
  return { data: context.getImageData(0, 0, w, h).data, w, h, x0, y0, scale: 1 / shrink };
}

// Writes the network's picture of a box into `into`, channel by channel, from 0 to 255.
function sample(region, view, px, into, offset) {
  const { data, w, h, x0, y0, scale } = region;
  const m = view.fromView;
  for (let v = 0; v < px; v++) {
    for (let u = 0; u < px; u++) {
      const depth = m[6] * u + m[7] * v + m[8];
      const x = (m[0] * u + m[1] * v + m[2]) / depth, y = (m[3] * u + m[4] * v + m[5]) / depth;
      const rx = Math.min(Math.max((x + 0.5 - x0) * scale - 0.5, 0), w - 1);
      const ry = Math.min(Math.max((y + 0.5 - y0) * scale - 0.5, 0), h - 1);
      const left = Math.floor(rx), top = Math.floor(ry), a = rx - left, b = ry - top;
      const right = Math.min(left + 1, w - 1), low = Math.min(top + 1, h - 1);
      for (let c = 0; c < 3; c++) {
        const p = data[4 * (top * w + left) + c], q = data[4 * (top * w + right) + c];
        const r = data[4 * (low * w + left) + c], s = data[4 * (low * w + right) + c];
        into[offset + c * px * px + v * px + u] = (1 - b) * ((1 - a) * p + a * q) + b * ((1 - a) * r + a * s);
      }
    }
  }
}

// ---- the finder --------------------------------------------------------------------------------
// The picture with its longer side px pixels, its edge repeated to multiples of 32, channel by
// channel, and how many of its pixels one of those is wide.
function shrink(source, width, height, px) {
  const scale = Math.max(width, height) / px;
  const w = Math.max(Math.round(width / scale), 1), h = Math.max(Math.round(height / scale), 1);
  scratch.width = w;
  scratch.height = h;
  const context = scratch.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.fillStyle = "#fff";
  context.fillRect(0, 0, w, h);
  context.drawImage(source, 0, 0, w, h);
  const { data } = context.getImageData(0, 0, w, h);
  const columns = Math.ceil(w / MULTIPLE) * MULTIPLE, rows = Math.ceil(h / MULTIPLE) * MULTIPLE;
  const pixels = new Float32Array(3 * rows * columns);
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) {
      const from = 4 * (Math.min(y, h - 1) * w + Math.min(x, w - 1));
      for (let c = 0; c < 3; c++) pixels[(c * rows + y) * columns + x] = data[from + c];
    }
  }
  return { pixels, rows, columns, scale };
}

// Peaks of the chances, the surest first: the largest of their neighbours.
function peaksOf(maps, rows, columns) {
  const [chance, side, way] = [maps.chance.data, maps.side.data, maps.towards.data];
  const cells = rows * columns;
  const at = (y, x) => (y >= 0 && y < rows && x >= 0 && x < columns ? chance[y * columns + x] : 0);
  const found = [];
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) {
      const score = chance[y * columns + x];
      let sum = 0, dx = 0, dy = 0, isPeak = score >= SURE;
      for (let v = -1; isPeak && v <= 1; v++) {
        for (let u = -1; u <= 1; u++) {
          const other = at(y + v, x + u);
          isPeak = isPeak && other <= score;
          sum += other;
          dx += u * other;
          dy += v * other;
        }
      }
      if (!isPeak) continue;
      const [across, down] = [way[y * columns + x], way[cells + y * columns + x]];
      const length = Math.hypot(across, down);
      found.push({
        way: length > 1e-6 ? [across / length, down / length] : UP,
        x: (x + 0.5 + dx / sum) * STRIDE - 0.5, y: (y + 0.5 + dy / sum) * STRIDE - 0.5,
        side: side[y * columns + x], score,
      });
    }
  }
  return found.sort((a, b) => b.score - a.score).slice(0, MOST);
}

// ---- the student -------------------------------------------------------------------------------
// session: of onnxruntime-web. facts: hand.json. A hand is {side, box, points (px), joints (mm),
// confidence, certainty}.
export class Hand {
  constructor(ort, session, facts, finder = null, presence = null) {
    Object.assign(this, { ort, session, facts, finder, presence });
  }

  // Places as the networks see them.
  seen(source, width, height, places) {
    const { px } = this.facts;
    const pixels = new Float32Array(places.length * 3 * px * px);
    const views = places.map((place, i) => {
      const view = viewOf(width, height, place, px);
      sample(fetchRegion(source, width, height, place.box, px), view, px, pixels, i * 3 * px * px);
      return view;
    });
    return { views, picture: new this.ort.Tensor("float32", pixels, [places.length, 3, px, px]) };
  }

  // One pass of the student over places.
  async look(source, width, height, places) {
    const { px, bone_mm } = this.facts;
    const { views, picture } = this.seen(source, width, height, places);
    const found = await this.session.run({ picture });
    return places.map((place, i) => {
      const { R, fromView, mirrored } = views[i];
      const uv = found.uv.data.subarray(42 * i, 42 * (i + 1));
      const xyz = found.joints.data.subarray(63 * i, 63 * (i + 1));
      const confidence = Array.from(found.confidence.data.subarray(21 * i, 21 * (i + 1)));
      const toCamera = transposed(R);
      const points = [], joints = [];
      for (let j = 0; j < 21; j++) {
        points.push(mapped(fromView, ((uv[2 * j] + 1) * px - 1) / 2, ((uv[2 * j + 1] + 1) * px - 1) / 2));
        const [x, y, z] = [xyz[3 * j], xyz[3 * j + 1], xyz[3 * j + 2]];
        const turned = [0, 3, 6].map((row) => toCamera[row] * x + toCamera[row + 1] * y + toCamera[row + 2] * z);
        joints.push([bone_mm * turned[0] * (mirrored ? -1 : 1), bone_mm * turned[1], bone_mm * turned[2]]);
      }
      const certainty = meanOf(confidence);
      return { place, side: place.side, box: place.box, points, joints, confidence, certainty };
    });
  }

  // Where a hand of that side is the likeliest, and the chance that there is one of any.
  async likeliest(source, width, height, places) {
    if (!this.presence) {
      if (places.length === 1) return { place: places[0], isHand: 1 }; // nothing to choose
      return { place: surest(await this.look(source, width, height, places)).place, isHand: 1 };
    }
    const { picture } = this.seen(source, width, height, places);
    const { hand, right } = await this.presence.run({ picture });
    const chance = (i) => hand.data[i] * right.data[i];
    const best = places.reduce((a, _, i) => (chance(i) > chance(a) ? i : a), 0);
    return { place: places[best], isHand: hand.data[best] };
  }

  // The likeliest of some places, and again what is found there; whose hand it is, is asked again.
  async refine(source, width, height, places) {
    const sides = [...new Set(places.map((place) => place.side))];
    let { place, isHand } = await this.likeliest(source, width, height, places);
    let best = await this.settle(source, width, height, place);
    if (sides.length > 1 || this.presence) {
      const both = sides.map((side) => ({ ...best.place, side }));
      ({ place, isHand } = await this.likeliest(source, width, height, both));
      if (place.side !== best.side) best = await this.settle(source, width, height, place);
    }
    const mean = await this.average(source, width, height, best);
    return { ...mean, isHand, certainty: isHand * mean.certainty };
  }

  // Looks, and again at what was found, until that stands still; the surest look counts.
  async settle(source, width, height, place) {
    let [look] = await this.look(source, width, height, [place]), best = look;
    for (let pass = 1; pass < PASSES; pass++) {
      const next = { side: look.side, box: towards(look.box, loosened(boxOf(look.points))), towards: this.wayOf(look.points) };
      if (agree(next, look.place)) break;
      [look] = await this.look(source, width, height, [next]);
      best = surest([best, look]);
    }
    return best;
  }

  // The mean of what is said of a place as it is, and turned to both sides.
  async average(source, width, height, look) {
    if (!this.facts.upright) return look;
    const turned = AVERAGED_DEG.map((degrees) => {
      const [c, s] = [Math.cos((degrees * Math.PI) / 180), Math.sin((degrees * Math.PI) / 180)];
      const [x, y] = look.place.towards;
      const box = { ...look.box, side: look.box.side / AVERAGED_ZOOM };
      return { box, side: look.side, towards: [c * x - s * y, s * x + c * y] };
    });
    const looks = [look, ...(await this.look(source, width, height, turned))];
    const mean = (pick) => pick(look).map((_, i) => looks.reduce((sum, one) => sum + pick(one)[i], 0) / looks.length);
    const meanRows = (name) => look[name].map((row, j) => row.map((_, k) => mean((one) => [one[name][j][k]])[0]));
    const confidence = mean((one) => one.confidence);
    return { ...look, points: meanRows("points"), joints: meanRows("joints"), confidence, certainty: meanOf(confidence) };
  }

  // What is up for the network where these joints are.
  wayOf(points) {
    return this.facts.upright ? directionOf(points) : UP;
  }

  // Of each hand that there may be, the likeliest first, the places to look at.
  async firstPlaces(source, width, height, sides) {
    if (!this.finder) {
      const ways = this.facts.upright ? WAYS : [UP];
      const places = firstBoxes(width, height).flatMap((box) =>
        sides.flatMap((side) => ways.map((towards) => ({ box, side, towards }))));
      const looks = (await this.look(source, width, height, places)).sort((a, b) => b.certainty - a.certainty);
      return looks.slice(0, FIRST).map(({ points }) =>
        sides.map((side) => ({ box: loosened(boxOf(points)), side, towards: this.wayOf(points) })));
    }
    let found = [], scale = 1;
    for (const px of [this.facts.finder_px, LARGER * this.facts.finder_px]) {
      const small = shrink(source, width, height, px);
      const picture = new this.ort.Tensor("float32", small.pixels, [1, 3, small.rows, small.columns]);
      const maps = await this.finder.run({ picture });
      found = peaksOf(maps, small.rows / STRIDE, small.columns / STRIDE);
      scale = small.scale;
      if (found.length) break;
    }
    found = found.filter((one) => one.score >= BESIDE * found[0].score);
    return found.slice(0, FIRST).map(({ x, y, side, way }) => {
      const half = 0.5 * scale - 0.5; // a pixel's middle is a whole number
      const box = loosened({ x: x * scale + half, y: y * scale + half, side: side * scale });
      return sides.map((one) => ({ box, side: one, towards: this.facts.upright ? way : UP }));
    });
  }

  // The hands of a whole picture, the surest first.
  async find(source, width, height, side = "auto") {
    const sides = side === "auto" ? ["right", "left"] : [side];
    const found = [];
    for (const places of await this.firstPlaces(source, width, height, sides)) {
      if (found.some((one) => isSameHand(boxOf(one.points), places[0].box))) continue;
      const refined = await this.refine(source, width, height, places);
      const isKnown = found.some((one) => isSameHand(boxOf(one.points), boxOf(refined.points)));
      const isFound = refined.isHand >= IS_HAND && meanOf(refined.confidence) >= FOUND;
      if (isFound && !isKnown) found.push(refined);
    }
    return found.sort((a, b) => b.certainty - a.certainty);
  }

  // A hand of the last frame in the next one; null where it is lost.
  async follow(source, width, height, last) {
    const place = { box: loosened(boxOf(last.points)), side: last.side, towards: this.wayOf(last.points) };
    const { isHand } = await this.likeliest(source, width, height, [place]);
    const [look] = await this.look(source, width, height, [place]);
    return isHand * look.certainty < LOST ? null : this.average(source, width, height, look);
  }
}

const meanOf = (numbers) => numbers.reduce((sum, one) => sum + one, 0) / numbers.length;
const surest = (looks) => looks.reduce((a, b) => (b.certainty > a.certainty ? b : a));

// ---- steady joints: the one-euro filter ----------------------------------------------------------
export class OneEuro {
  constructor(slowestHz = 1.5, perSpeed = 3.0, speedHz = 1.0) {
    Object.assign(this, { slowestHz, perSpeed, speedHz, value: null, speed: null });
  }

  // Speed counts in sizes a second.
  step(value, seconds, size) {
    if (!this.value || seconds <= 0) {
      this.value = value;
      this.speed = value.map((row) => row.map(() => 0));
      return value;
    }
    const share = (hz) => 1 / (1 + 1 / (2 * Math.PI * hz * seconds));
    const own = share(this.speedHz);
    this.speed = value.map((row, i) =>
      row.map((one, k) => own * ((one - this.value[i][k]) / seconds) + (1 - own) * this.speed[i][k]));
    this.value = value.map((row, i) => {
      const new_ = share(this.slowestHz + (this.perSpeed * Math.hypot(...this.speed[i])) / size);
      return row.map((one, k) => new_ * one + (1 - new_) * this.value[i][k]);
    });
    return this.value;
  }
}
