import * as ort from "./ort.wasm.min.mjs";
import { Hand, OneEuro, boxOf, isSameHand } from "./hand.js";

const LOOK_EVERY = 30; // frames between two looks for more hands, while some are followed
const HAND_MM = 100; // the size that speed in millimetres counts in
const LARGEST = 1600; // pixels of a picture's longer side
const $ = (id) => document.getElementById(id);
const say = (text) => { $("status").textContent = text; };

ort.env.wasm.wasmPaths = new URL("./", import.meta.url).href;
ort.env.wasm.numThreads = 1; // a plain server does not allow more

let facts, hand;
try {
  facts = await (await fetch("hand.json")).json();
  const load = (file) => ort.InferenceSession.create(file, { executionProviders: ["wasm"] });
  hand = new Hand(ort, await load("student.onnx"), facts, facts.finder_px ? await load("finder.onnx") : null,
    facts.presence_px ? await load("presence.onnx") : null);
  say("Ready. Choose a picture, or use the camera.");
} catch (error) {
  say(`The network could not be loaded: ${error.message}`);
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
function drawSkeleton(context, points, confidence, width) {
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
    const radius = width * (0.9 + 0.9 * confidence[joint]);
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
  for (const one of shown) drawSkeleton(context, one.points, one.confidence, Math.max(one.box.side / 70, 1));
  context.setTransform(1, 0, 0, 1, 0, 0);
}

function drawSpace() {
  const canvas = $("space"), context = canvas.getContext("2d"), half = canvas.width / 2;
  context.clearRect(0, 0, canvas.width, canvas.height);
  if (!shown.length) return;
  const { joints, confidence } = shown[0];
  const middle = [0, 1, 2].map((k) => joints.reduce((sum, one) => sum + one[k], 0) / 21);
  const { yaw, pitch } = turned;
  const turnedPoints = joints.map((one) => {
    const [x, y, z] = one.map((value, k) => value - middle[k]);
    const [x1, z1] = [Math.cos(yaw) * x + Math.sin(yaw) * z, Math.cos(yaw) * z - Math.sin(yaw) * x];
    return [x1, Math.cos(pitch) * y - Math.sin(pitch) * z1];
  });
  const reach = Math.max(...joints.map((one) => Math.hypot(...one.map((value, k) => value - middle[k]))));
  const points = turnedPoints.map(([x, y]) => [half + (0.85 * half * x) / reach, half + (0.85 * half * y) / reach]);
  drawSkeleton(context, points, confidence, canvas.width / 90);
}

const inFile = (pixel) => (pixel + 0.5) / scale - 0.5;
const percent = (share) => `${Math.round(100 * share)} %`;

function describe() {
  if (!shown.length) return "No hand found.";
  const each = shown.map((one) => `a ${one.side} hand, ${percent(one.certainty)} sure`).join("; ");
  return `${shown.length === 1 ? "Found" : `Found ${shown.length} hands:`} ${each}.`;
}

function fillNumbers() {
  const rows = [["joint", "x, px", "y, px", "x, mm", "y, mm", "z, mm", "sure"]];
  if (shown.length) {
    const { points, joints, confidence } = shown[0];
    facts.joints.forEach((title, j) =>
      rows.push([title, ...points[j].map((v) => inFile(v).toFixed(1)), ...joints[j].map((v) => v.toFixed(1)), percent(confidence[j])]));
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
    found = await hand.find(bitmap, width, height, $("side").value);
  } catch (error) {
    say(`The network could not look at this picture: ${error.message}`);
    return;
  }
  if (own !== generation) return;
  shown = found;
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
  let followed = [], frame = 0, last = performance.now(), rate = 0, told = 0;
  while (own === generation) {
    await new Promise(requestAnimationFrame);
    const width = video.videoWidth, height = video.videoHeight;
    if (!width) continue;
    const now = performance.now(), seconds = (now - last) / 1000;
    last = now;
    const still = await createImageBitmap(video);
    const next = [];
    for (const { look, filters } of followed) {
      const found = await hand.follow(still, width, height, look);
      if (found && !next.some((one) => isSameHand(boxOf(one.look.points), boxOf(found.points)))) next.push({ look: found, filters });
    }
    if (!next.length || frame % LOOK_EVERY === 0) {
      for (const found of await hand.find(still, width, height, $("side").value)) {
        if (!next.some((one) => isSameHand(boxOf(one.look.points), boxOf(found.points)))) {
          next.push({ look: found, filters: [new OneEuro(), new OneEuro()] });
        }
      }
    }
    if (own !== generation) return;
    followed = next;
    shown = followed.map(({ look, filters: [pixels, millimetres] }) => {
      if (!$("steady").checked) return look;
      const points = pixels.step(look.points, seconds, Math.max(look.box.side, 1));
      return { ...look, points, joints: millimetres.step(look.joints, seconds, HAND_MM) };
    });
    const tells = now - told > 5000;
    show(still, width, height, $("mirror").checked, !tells);
    still.close();
    const current = 1 / Math.max(seconds, 1e-3);
    rate = rate ? 0.9 * rate + 0.1 * current : current;
    if (tells) {
      told = now;
      say(`${describe()} ${rate.toFixed(0)} frames a second.`);
    }
    frame++;
  }
}

// ---- what the visitor does ---------------------------------------------------------------------
let lastBlob = null;
const take = (blob) => { lastBlob = blob; return lookAtPicture(blob); };
$("file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  if (!file) return;
  take(file);
  event.target.value = ""; // the same file may be chosen again
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
  const hands = shown.map(({ side, box, points, joints, confidence }) => ({
    image: name,
    side,
    box: [inFile(box.x - box.side / 2), inFile(box.y - box.side / 2), box.side / scale, box.side / scale],
    joints_px: points.map((one) => one.map(inFile)),
    joints_mm: joints.map((one) => one.map((value, k) => value - joints[0][k])),
    confidence,
  }));
  const text = JSON.stringify({ format: "cmkg-hands/1", joints: facts.joints, units: facts.units, bone_mm: facts.bone_mm, hands }, null, 1);
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
