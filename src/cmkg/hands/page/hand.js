// Hands in the browser: what cmkg/hands/inference and cmkg/hands/mediapipe do in Python, with the
// same numbers. Pictures are ImageData; the first pixel's middle is (0, 0).

const PALM_PX = 192, PX = 224;
const STRIDES = [[8, 2], [16, 6]]; // of the palm network's cells, and its anchors a cell
const SAME_PALM = 0.3; // intersection over union
const PALM_ZOOM = 2.6, PALM_SHIFT = -0.5, JOINTS_ZOOM = 2.0, JOINTS_SHIFT = -0.1;
const FOLLOWED = [0, 1, 2, 3, 5, 6, 9, 10, 13, 14, 17, 18];
const SHARES = [1, 0.6]; // of what the palm network sees, that the picture fills
const SAME_HAND = 0.35; // of the smaller region's side
const FINE = 1.5; // pixels of the picture for each of the network's, before they are averaged
export const THRESHOLDS = { palm: 0.5, presence: 0.5 };

const sigmoid = (x) => 1 / (1 + Math.exp(-Math.min(Math.max(x, -100), 100)));
const rotated = ([x, y], angle) => [Math.cos(angle) * x - Math.sin(angle) * y, Math.sin(angle) * x + Math.cos(angle) * y];

// ---- regions: squares on the picture, turned so that the hand is up -------------------------------
export class Region {
  constructor(x, y, side, angle) {
    Object.assign(this, { x, y, side, angle });
  }

  static ofJoints(points) {
    const mean = (a, b, k) => (a[k] + b[k]) / 2;
    const up = [0, 1].map((k) => (mean(points[5], points[13], k) + points[9][k]) / 2 - points[0][k]);
    const angle = Math.atan2(up[0], -up[1]);
    const followed = FOLLOWED.map((joint) => points[joint]);
    const box = (list) => [0, 1].map((k) => [Math.min(...list.map((p) => p[k])), Math.max(...list.map((p) => p[k]))]);
    const middle = box(followed).map(([low, high]) => (low + high) / 2);
    const turned = box(followed.map((p) => rotated([p[0] - middle[0], p[1] - middle[1]], -angle)));
    const [width, height] = turned.map(([low, high]) => high - low);
    const centre = turned.map(([low, high]) => (low + high) / 2);
    const [dx, dy] = rotated([centre[0], centre[1] + JOINTS_SHIFT * height], angle);
    return new Region(middle[0] + dx, middle[1] + dy, JOINTS_ZOOM * Math.max(width, height, 1), angle);
  }

  static ofPalm(x, y, width, height, wrist, middleMcp) {
    const angle = Math.atan2(middleMcp[0] - wrist[0], wrist[1] - middleMcp[1]);
    const [dx, dy] = rotated([0, PALM_SHIFT * height], angle);
    return new Region(x + dx, y + dy, PALM_ZOOM * Math.max(width, height, 1), angle);
  }

  // Places that the network tells, from 0 to PX, in the picture's pixels.
  toPicture([x, y]) {
    const [dx, dy] = rotated([((x - PX / 2) * this.side) / PX, ((y - PX / 2) * this.side) / PX], this.angle);
    return [this.x + dx, this.y + dy];
  }

  // 3D joints of the region's turned frame, in the picture's.
  toCamera([x, y, z]) {
    return [...rotated([x, y], this.angle), z];
  }

  isSameHand(other) {
    return Math.hypot(this.x - other.x, this.y - other.y) < SAME_HAND * Math.min(this.side, other.side);
  }
}

// ---- what the networks see ------------------------------------------------------------------------
// A part of a picture, by whole pixels smaller: RGB as numbers, averaged.
function shrunken(image, left, top, right, bottom, shrink) {
  const columns = Math.max(Math.floor((right - left) / shrink), 1), rows = Math.max(Math.floor((bottom - top) / shrink), 1);
  const out = new Float32Array(rows * columns * 3), { data, width } = image, share = 1 / (shrink * shrink);
  for (let row = 0; row < rows; row++) for (let column = 0; column < columns; column++) {
    const place = 3 * (row * columns + column);
    for (let v = 0; v < shrink; v++) for (let u = 0; u < shrink; u++) {
      const from = 4 * (Math.min(top + row * shrink + v, image.height - 1) * width + Math.min(left + column * shrink + u, width - 1));
      out[place] += share * data[from];
      out[place + 1] += share * data[from + 1];
      out[place + 2] += share * data[from + 2];
    }
  }
  return { pixels: out, rows, columns };
}

// RGB from 0 to 1 of a region, PX pixels a side; beyond the picture its edge repeats.
export function viewOf(image, region) {
  const half = region.side / 2, { width, height } = image;
  const corners = [[-half, -half], [half, -half], [half, half], [-half, half]].map((one) => rotated(one, region.angle));
  const span = (k, middle, size) => {
    const values = corners.map((one) => one[k] + middle);
    const low = Math.min(Math.max(Math.trunc(Math.min(...values) - 2), 0), size - 1);
    return [low, Math.min(Math.max(Math.trunc(Math.max(...values) + 3), low + 1), size)];
  };
  const [left, right] = span(0, region.x, width), [top, bottom] = span(1, region.y, height);
  const shrink = Math.max(Math.floor(region.side / (FINE * PX)), 1);
  const part = shrunken(image, left, top, right, bottom, shrink);
  const offset = 0.5 / shrink - 0.5, scale = region.side / PX;
  const [c, s] = [Math.cos(region.angle) * scale, Math.sin(region.angle) * scale];
  const out = new Float32Array(PX * PX * 3);
  for (let row = 0; row < PX; row++) for (let column = 0; column < PX; column++) {
    const [u, v] = [column + 0.5 - PX / 2, row + 0.5 - PX / 2];
    bilinear(part, (region.x + c * u - s * v - left) / shrink + offset, (region.y + s * u + c * v - top) / shrink + offset,
      out, 3 * (row * PX + column));
  }
  return out;
}

function bilinear({ pixels, rows, columns }, x, y, out, place) {
  const clampX = Math.min(Math.max(x, 0), columns - 1), clampY = Math.min(Math.max(y, 0), rows - 1);
  const x0 = Math.floor(clampX), y0 = Math.floor(clampY), x1 = Math.min(x0 + 1, columns - 1), y1 = Math.min(y0 + 1, rows - 1);
  const [a, b] = [clampX - x0, clampY - y0];
  for (let k = 0; k < 3; k++) {
    const at = (row, column) => pixels[3 * (row * columns + column) + k];
    out[place + k] = ((1 - b) * ((1 - a) * at(y0, x0) + a * at(y0, x1)) + b * ((1 - a) * at(y1, x0) + a * at(y1, x1))) / 255;
  }
}

// The picture within a black square of PALM_PX pixels, its longer side `share` of them; RGB, 0 to 1.
function letterbox(image, share) {
  const scale = Math.max(image.width, image.height) / (share * PALM_PX);
  const rows = Math.max(Math.round(image.height / scale), 1), columns = Math.max(Math.round(image.width / scale), 1);
  const top = Math.floor((PALM_PX - rows) / 2), left = Math.floor((PALM_PX - columns) / 2);
  const shrink = Math.max(Math.floor(scale), 1);
  const part = shrunken(image, 0, 0, image.width, image.height, shrink), offset = 0.5 / shrink - 0.5;
  const out = new Float32Array(PALM_PX * PALM_PX * 3);
  for (let row = 0; row < rows; row++) for (let column = 0; column < columns; column++) {
    const x = (column + 0.5) * (image.width / columns) - 0.5, y = (row + 0.5) * (image.height / rows) - 0.5;
    bilinear(part, x / shrink + offset, y / shrink + offset, out, 3 * ((row + top) * PALM_PX + column + left));
  }
  return { picture: out, scale, left, top };
}

const ANCHORS = STRIDES.flatMap(([stride, count]) => {
  const cells = PALM_PX / stride;
  return Array.from({ length: cells * cells * count }, (_, i) => {
    const cell = Math.floor(i / count);
    return [((cell % cells) + 0.5) * stride, (Math.floor(cell / cells) + 0.5) * stride];
  });
});

// The palms' regions, the surest first: weighted non-maximum suppression.
function palmsOf(boxes, scores, place, least) {
  let left = [];
  for (let i = 0; i < ANCHORS.length; i++) {
    const score = sigmoid(scores[i]);
    if (score < least) continue;
    const numbers = Array.from(boxes.subarray(18 * i, 18 * i + 18));
    for (let k = 0; k < 18; k++) if (k < 2 || k > 3) numbers[k] += ANCHORS[i][k % 2];
    left.push({ score, numbers });
  }
  left.sort((a, b) => b.score - a.score);
  const overlap = ({ numbers: a }, { numbers: b }) => {
    const side = (k) => Math.max(Math.min(a[k] + a[k + 2] / 2, b[k] + b[k + 2] / 2) - Math.max(a[k] - a[k + 2] / 2, b[k] - b[k + 2] / 2), 0);
    const shared = side(0) * side(1);
    return shared / Math.max(a[2] * a[3] + b[2] * b[3] - shared, 1e-9);
  };
  const regions = [];
  while (left.length) {
    const group = left.filter((one, i) => i === 0 || overlap(left[0], one) > SAME_PALM);
    left = left.filter((one) => !group.includes(one));
    const total = group.reduce((sum, one) => sum + one.score, 0);
    const mean = Array.from({ length: 18 }, (_, k) => group.reduce((sum, one) => sum + (one.score / total) * one.numbers[k], 0));
    const point = (k) => [(mean[k] - place.left) * place.scale - 0.5, (mean[k + 1] - place.top) * place.scale - 0.5];
    regions.push(Region.ofPalm(...point(0), mean[2] * place.scale, mean[3] * place.scale, point(4), point(8)));
  }
  return regions;
}

// ---- the hand -------------------------------------------------------------------------------------
// palms, landmarks: functions from RGB (0 to 1) to the networks' outputs, in the files' order.
export class Hand {
  constructor(palms, landmarks, facts) {
    Object.assign(this, { palms, landmarks, facts });
  }

  async look(image, region) {
    const [screen, presence, handedness, world] = await this.landmarks(viewOf(image, region));
    const rows = (list) => Array.from({ length: 21 }, (_, j) => Array.from(list.subarray(3 * j, 3 * j + 3)));
    const points = rows(screen).map((one) => region.toPicture(one));
    const joints = rows(world).map((one) => region.toCamera(one).map((value) => 1000 * value));
    return {
      points,
      joints: joints.map((one) => one.map((value, k) => value - joints[0][k])),
      presence: presence[0],
      right: handedness[0],
      side: handedness[0] >= 0.5 ? "right" : "left",
      region: Region.ofJoints(points),
    };
  }

  // The hands of a whole picture, the surest first; from farther away where none is found.
  async find(image) {
    for (const share of SHARES) {
      const found = await this.findAt(image, share);
      if (found.length) return found;
    }
    return [];
  }

  async findAt(image, share) {
    const place = letterbox(image, share);
    const [boxes, scores] = await this.palms(place.picture);
    const found = [];
    const isKnown = (one) => found.some((other) => other.region.isSameHand(one.region));
    for (const region of palmsOf(boxes, scores, place, THRESHOLDS.palm)) {
      if (found.length === this.facts.max_hands) break;
      const first = await this.look(image, region);
      if (first.presence < THRESHOLDS.presence || isKnown(first)) continue;
      const again = await this.look(image, first.region);
      if (again.presence >= THRESHOLDS.presence && !isKnown(again)) found.push(again);
    }
    return found.sort((a, b) => b.presence - a.presence);
  }

  // A hand of the last frame in the next one; null where it is lost.
  async follow(image, last) {
    const found = await this.look(image, last.region);
    return found.presence < THRESHOLDS.presence ? null : found;
  }
}

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
