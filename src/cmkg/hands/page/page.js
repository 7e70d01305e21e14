import { loadAndCompile, loadLiteRt, Tensor } from "./litert/core.js";
import { Hand, OneEuro } from "./hand.js";

const SEARCH_EVERY = 10; // frames between two looks for more hands, while some are followed
const HAND_MM = 100; // the size that speed in millimetres counts in
const LARGEST = 1600; // pixels of a picture's longer side
const $ = (id) => document.getElementById(id);
const say = (text) => { $("status").textContent = text; };

let facts, hand;
try {
  facts = await (await fetch("hand.json")).json();
  await loadLiteRt(new URL("./litert/litert_wasm_compat_internal.js", import.meta.url).href);
  // The network of a file, as a function from RGB (px, px, 3) to its outputs.
  const load = async (file, px) => {
    const network = await loadAndCompile(file, { accelerator: "wasm" });
    return async (pixels) => {
      const picture = new Tensor(pixels, [1, px, px, 3]);
      const outputs = await network.run(picture);
      const found = outputs.map((one) => one.toTypedArray().slice());
      for (const one of [picture, ...outputs]) one.delete();
      return found;
    };
  };
  hand = new Hand(await load("palm_detection.tflite", 192), await load("hand_landmark.tflite", 224), facts);
  say("Ready. Choose a picture, try the sample, or use the camera.");
} catch (error) {
  say(`The networks could not be loaded: ${error.message}`);
  throw error;
}
$("facts").textContent = facts.about;

let shown = []; // the hands on the page
let scale = 1; // of the file's pixels to those that were looked at
let name = "camera";
let turned = { yaw: 0.5, pitch: 0.2 };
let stream = null;
let generation = 0; // of what is looked at: older work stops

// ---- drawing -----------------------------------------------------------------------------------
function drawSkeleton(context, points, width) {
  context.lineCap = "round";
  for (const [edge, thickness] of [[true, 2.2], [false, 1.2]]) {
    facts.bones.forEach(([parent, child], bone) => {
      context.strokeStyle = edge ? "#141414" : facts.colours[Math.floor(bone / 4)];
      context.lineWidth = Math.max(width * thickness, 1);
      context.beginPath();
      context.moveTo(...points[parent]);
      context.lineTo(...points[child]);
      context.stroke();
    });
  }
  points.forEach(([x, y], joint) => {
    const radius = 1.6 * width;
    for (const [colour, size] of [["#141414", radius], [joint ? facts.colours[Math.floor((joint - 1) / 4)] : "#fff", 0.7 * radius]]) {
      context.fillStyle = colour;
      context.beginPath();
      context.arc(x, y, size, 0, 2 * Math.PI);
      context.fill();
    }
  });
}

function drawPicture(source, width, height, mirrored) {
  const canvas = $("picture"), context = canvas.getContext("2d");
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  context.setTransform(mirrored ? -1 : 1, 0, 0, 1, mirrored ? width : 0, 0);
  context.fillStyle = "#fff"; // behind what is transparent
  context.fillRect(0, 0, width, height);
  context.drawImage(source, 0, 0, width, height);
  for (const one of shown) drawSkeleton(context, one.points, Math.max(one.region.side / 90, 0.8));
  context.setTransform(1, 0, 0, 1, 0, 0);
  for (const one of shown) label(context, one, width, height, mirrored);
}

// R 98 below a hand, readable in a mirror, too.
function label(context, one, width, height, mirrored) {
  const size = Math.max(Math.min(one.region.side / 12, 40), 12);
  const text = `${one.side[0].toUpperCase()} ${Math.round(100 * Math.max(one.right, 1 - one.right))}`;
  const x = one.points.reduce((sum, point) => sum + point[0], 0) / 21, y = Math.max(...one.points.map((point) => point[1]));
  context.font = `600 ${size}px sans-serif`;
  context.textAlign = "center";
  context.lineWidth = size / 5;
  const place = [mirrored ? width - x : x, Math.min(y + 1.4 * size, height - 3)];
  context.strokeStyle = "#141414";
  context.strokeText(text, ...place);
  context.fillStyle = "#fff";
  context.fillText(text, ...place);
}

function drawSpace() {
  const canvas = $("space"), context = canvas.getContext("2d"), half = canvas.width / 2;
  context.clearRect(0, 0, canvas.width, canvas.height);
  if (!shown.length) return;
  const { joints } = shown[0], flip = mirrored() ? -1 : 1;
  const middle = [0, 1, 2].map((k) => joints.reduce((sum, one) => sum + one[k], 0) / 21);
  const { yaw, pitch } = turned;
  const turnedPoints = joints.map((one) => {
    const [x, y, z] = one.map((value, k) => (k ? 1 : flip) * (value - middle[k]));
    const [x1, z1] = [Math.cos(yaw) * x + Math.sin(yaw) * z, Math.cos(yaw) * z - Math.sin(yaw) * x];
    return [x1, Math.cos(pitch) * y - Math.sin(pitch) * z1];
  });
  const reach = Math.max(...joints.map((one) => Math.hypot(...one.map((value, k) => value - middle[k]))));
  const points = turnedPoints.map(([x, y]) => [half + (0.85 * half * x) / reach, half + (0.85 * half * y) / reach]);
  drawSkeleton(context, points, canvas.width / 90);
}

const mirrored = () => Boolean(stream) && $("mirror").checked; // both views
const inFile = (pixel) => (pixel + 0.5) / scale - 0.5;
const percent = (share) => `${Math.round(100 * share)} %`;

function describe() {
  if (!shown.length) return "No hand found.";
  const each = shown.map((one) => `a ${one.side} hand, ${percent(one.presence)} sure`).join("; ");
  return `${shown.length === 1 ? "Found" : `Found ${shown.length} hands:`} ${each}.`;
}

function fillNumbers() {
  const rows = [["joint", "x, px", "y, px", "x, mm", "y, mm", "z, mm"]];
  if (shown.length) {
    const { points, joints } = shown[0];
    facts.joints.forEach((title, j) =>
      rows.push([title, ...points[j].map((v) => inFile(v).toFixed(1)), ...joints[j].map((v) => v.toFixed(1))]));
  }
  const table = $("numbers");
  table.tBodies[0]?.remove();
  const body = table.createTBody();
  rows.forEach((cells, r) => {
    const row = body.insertRow();
    cells.forEach((text, c) => {
      const cell = document.createElement(r && c ? "td" : "th");
      cell.scope = r ? "row" : "col";
      cell.textContent = text;
      row.append(cell);
    });
  });
}

function show(source, width, height, mirrored, quietly) {
  drawPicture(source, width, height, mirrored);
  drawSpace();
  $("download").disabled = !shown.length;
  if (!quietly) {
    fillNumbers();
    $("picture").setAttribute("aria-label", describe());
  }
  document.dispatchEvent(new CustomEvent("hands", { detail: { hands: shown, width, height } }));
}

// The pixels of a picture or a frame, on white where it is transparent.
const scratch = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
function pixelsOf(source, width, height) {
  if (scratch.canvas.width !== width || scratch.canvas.height !== height) Object.assign(scratch.canvas, { width, height });
  scratch.fillStyle = "#fff";
  scratch.fillRect(0, 0, width, height);
  scratch.drawImage(source, 0, 0, width, height);
  return scratch.getImageData(0, 0, width, height);
}

const isWanted = (one) => $("side").value === "any" || one.side === $("side").value;

// ---- a picture ---------------------------------------------------------------------------------
async function lookAtPicture(blob) {
  stopCamera();
  const own = ++generation;
  say("Looking…");
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob);
  } catch {
    say("This file is no picture that the browser can read.");
    return;
  }
  scale = Math.min(1, LARGEST / Math.max(bitmap.width, bitmap.height));
  name = blob.name ?? "pasted picture";
  const width = Math.round(bitmap.width * scale), height = Math.round(bitmap.height * scale);
  if (scale < 1) bitmap = await createImageBitmap(bitmap, { resizeWidth: width, resizeHeight: height, resizeQuality: "high" });
  if (Math.min(width, height) < 8) {
    say("This picture is smaller than 8 pixels a side.");
    return;
  }
  let found;
  try {
    found = await hand.find(pixelsOf(bitmap, width, height));
  } catch (error) {
    say(`The networks could not look at this picture: ${error.message}`);
    return;
  }
  if (own !== generation) return;
  shown = found.filter(isWanted);
  show(bitmap, width, height, false, false);
  say(describe());
}

// ---- the camera --------------------------------------------------------------------------------
async function startCamera() {
  if (!navigator.mediaDevices) {
    say("No camera: browsers give it to pages over https, or on localhost, alone.");
    return;
  }
  $("camera").disabled = true; // until the visitor has answered
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 640 }, height: { ideal: 480 }, facingMode: "user" } });
  } catch (error) {
    const why = { NotAllowedError: "it is not allowed; allow it in the browser's bar", NotFoundError: "there is none" };
    say(`No camera: ${why[error.name] ?? error.message}.`);
    return;
  } finally {
    $("camera").disabled = false;
  }
  [scale, name] = [1, "camera"];
  const video = $("video"), own = ++generation;
  stream.getVideoTracks()[0].addEventListener("ended", () => {
    if (own === generation) { stopCamera(); say("The camera was unplugged."); }
  });
  video.srcObject = stream;
  await video.play();
  $("camera").textContent = "Stop the camera";
  $("picture").setAttribute("aria-label", "The camera's picture");
  try {
    await followCamera(video, own);
  } catch (error) {
    stopCamera();
    say(`The camera was stopped: ${error.message}`);
  }
}

function stopCamera() {
  if (!stream) return;
  generation++;
  for (const track of stream.getTracks()) track.stop();
  stream = null;
  $("camera").textContent = "Use the camera";
}

async function followCamera(video, own) {
  let followed = [], frame = 0, last = performance.now(), counted = 0, told = last, first = true;
  while (own === generation) {
    await nextFrame(video);
    const width = video.videoWidth, height = video.videoHeight;
    if (!width || own !== generation) continue;
    const now = performance.now(), seconds = (now - last) / 1000;
    last = now;
    const still = await createImageBitmap(video);
    const image = pixelsOf(still, width, height);
    const next = [];
    const isKnown = (one) => next.some(({ look }) => look.region.isSameHand(one.region));
    for (const { look, filters } of followed) {
      const found = await hand.follow(image, look);
      if (found && !isKnown(found)) next.push({ look: found, filters });
    }
    if (!next.length || (frame % SEARCH_EVERY === 0 && next.length < facts.max_hands)) {
      for (const found of await hand.find(image)) {
        if (!isKnown(found) && next.length < facts.max_hands) next.push({ look: found, filters: [new OneEuro(), new OneEuro()] });
      }
    }
    if (own !== generation) return;
    followed = next;
    shown = followed.map(({ look, filters: [pixels, millimetres] }) => {
      if (!$("steady").checked) return look;
      const points = pixels.step(look.points, seconds, Math.max(look.region.side, 1));
      return { ...look, points, joints: millimetres.step(look.joints, seconds, HAND_MM) };
    }).filter(isWanted);
    counted++;
    const tells = first || now - told > 2000;
    show(still, width, height, $("mirror").checked, !tells);
    still.close();
    if (tells) { // frames that were looked at, over the time that they took
      const rate = first ? "" : ` ${((1000 * counted) / (performance.now() - told)).toFixed(1)} frames a second.`;
      say(`${describe()}${rate}`);
      [told, counted, first] = [performance.now(), 0, false];
    }
    frame++;
  }
}

// When the camera has a new frame; where the browser does not say it, when it draws next.
const nextFrame = (video) => new Promise((done) => {
  if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(done);
  else requestAnimationFrame(done);
});

// ---- what the visitor does ---------------------------------------------------------------------
let lastBlob = null;
const take = (blob) => { lastBlob = blob; return lookAtPicture(blob); };
$("file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  if (!file) return;
  take(file);
  event.target.value = ""; // the same file may be chosen again
});
$("sample").addEventListener("click", async () => {
  const blob = await (await fetch("sample.jpg")).blob();
  take(new File([blob], "sample.jpg", { type: blob.type }));
});
$("camera").addEventListener("click", () => {
  if (!stream) return startCamera();
  stopCamera();
  say("The camera is off.");
});
$("side").addEventListener("change", () => !stream && lastBlob && lookAtPicture(lastBlob));
document.addEventListener("paste", (event) => {
  const item = [...event.clipboardData.items].find((one) => one.type.startsWith("image/"));
  if (item) take(item.getAsFile());
});
document.addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dropping"); });
document.addEventListener("dragleave", () => document.body.classList.remove("dropping"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
});
$("download").addEventListener("click", () => {
  const hands = shown.map(({ side, right, presence, region, points, joints }) => ({
    image: name,
    side,
    confidence: presence,
    side_confidence: Math.max(right, 1 - right),
    box: [inFile(region.x - region.side / 2), inFile(region.y - region.side / 2), region.side / scale, region.side / scale],
    joints_px: points.map((one) => one.map(inFile)),
    joints_mm: joints,
  }));
  const text = JSON.stringify({ format: facts.format, joints: facts.joints, units: facts.units, bone_mm: facts.bone_mm, hands }, null, 1);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = "hands.json";
  link.click();
  URL.revokeObjectURL(link.href);
});

const space = $("space");
let drag = null;
space.addEventListener("pointerdown", (event) => { drag = [event.clientX, event.clientY]; space.setPointerCapture(event.pointerId); });
space.addEventListener("pointermove", (event) => {
  if (!drag) return;
  turned = { yaw: turned.yaw + (event.clientX - drag[0]) / 120, pitch: turned.pitch - (event.clientY - drag[1]) / 120 };
  drag = [event.clientX, event.clientY];
  drawSpace();
});
space.addEventListener("pointerup", () => { drag = null; });
space.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: [-0.15, 0], ArrowRight: [0.15, 0], ArrowUp: [0, 0.15], ArrowDown: [0, -0.15] }[event.key];
  if (!step) return;
  event.preventDefault();
  turned = { yaw: turned.yaw + step[0], pitch: turned.pitch + step[1] };
  drawSpace();
});
