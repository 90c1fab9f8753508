// Painting a mask over a picture: white is repainted, black is kept.

const dialog = document.getElementById("mask-dialog");
const canvas = document.getElementById("mask-canvas");
const brush = document.getElementById("mask-brush");

/** Opens the dialog over a picture. Resolves to the mask as a data URL of the picture's size. */
export async function paintMask(source) {
  const picture = await load(source);
  const mask = Object.assign(document.createElement("canvas"), { width: picture.naturalWidth, height: picture.naturalHeight });
  Object.assign(canvas, { width: mask.width, height: mask.height });
  canvas.style.width = `${Math.max(256, Math.min(640, mask.width))}px`;
  const [paint, show] = [mask.getContext("2d"), canvas.getContext("2d")];
  const clear = () => {
    paint.fillStyle = "#000";
    paint.fillRect(0, 0, mask.width, mask.height);
    draw();
  };
  const draw = () => {
    show.globalAlpha = 1;
    show.drawImage(picture, 0, 0);
    show.globalAlpha = 0.5;
    show.drawImage(mask, 0, 0);
  };
  const stroke = (event) => {
    if (!event.buttons) return;
    const scale = mask.width / canvas.clientWidth;
    paint.fillStyle = "#fff";
    paint.beginPath();
    paint.arc(event.offsetX * scale, event.offsetY * scale, (brush.value / 2) * scale, 0, 2 * Math.PI);
    paint.fill();
    draw();
  };
  clear();
  canvas.onpointerdown = canvas.onpointermove = stroke;
  document.getElementById("mask-clear").onclick = clear;
  dialog.showModal();
  return new Promise((done) => {
    document.getElementById("mask-done").onclick = () => {
      dialog.close();
      done(mask.toDataURL("image/png"));
    };
  });
}

function load(source) {
  return new Promise((done, failed) => {
    const picture = new Image();
    picture.crossOrigin = "anonymous"; // or the canvas could not be read
    picture.onload = () => done(picture);
    picture.onerror = () => failed(new Error("the picture cannot be shown"));
    picture.src = source;
  });
}
