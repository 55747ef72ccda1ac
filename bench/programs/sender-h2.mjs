// Sends one body over HTTP/2 and TLS in frames of its own, which costs less than a library, and prints how long that took until the
// final response, which has to be 200. node sender-h2.mjs '{"url": …, "method": …, "headers": {…}, "size": …}'
import { connect } from 'node:tls';

const { url, method, headers, size } = JSON.parse(process.argv[2]);
const { hostname, port, host, pathname } = new URL(url);
const [DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE] = [0, 1, 3, 4, 6, 7, 8];
const PAYLOAD = 16_384;
const BATCH = 64;
const CONNECTION = 0;
const STREAM = 1;

function frame(type, flags, stream, payload = Buffer.alloc(0)) {
  const head = Buffer.alloc(9);
  head.writeUIntBE(payload.length, 0, 3);
  head.writeUInt8(type, 3);
  head.writeUInt8(flags, 4);
  head.writeUInt32BE(stream, 5);
  return Buffer.concat([head, payload]);
}

/** RFC 7541 §6.2.2: literal fields, not indexed. */
function fieldBlock(fields) {
  const text = (value) => String.fromCharCode(value.length) + value;
  return Buffer.from(
    fields.map(([name, value]) => `\0${text(name.toLowerCase())}${text(`${value}`)}`).join(''),
    'latin1',
  );
}

const full = frame(DATA, 0, STREAM, Buffer.alloc(PAYLOAD, 'rufh-proxy '));
const batch = Buffer.concat(Array.from({ length: BATCH }, () => full));
const windows = [65_535, 65_535];
let initialWindow = 65_535;
const startedAt = performance.now();
let left = size;
let lastByteAt = startedAt;
let isWaiting = false;

function pump() {
  while (left > 0 && !isWaiting) {
    const frames = Math.min(BATCH, Math.floor(Math.min(...windows, left) / PAYLOAD));
    if (frames === 0) break;
    take(frames * PAYLOAD);
    write(batch.subarray(0, frames * full.length));
  }
  if (left > 0 && left < PAYLOAD && left <= Math.min(...windows)) {
    write(frame(DATA, 0, STREAM, Buffer.alloc(left, 'rufh-proxy ')));
    take(left);
  }
  if (left === 0) {
    left = -1;
    // An empty frame ends the stream (RFC 9113 §6.1).
    socket.write(frame(DATA, 1, STREAM), () => (lastByteAt = performance.now()));
  }
}

function take(bytes) {
  left -= bytes;
  windows[CONNECTION] -= bytes;
  windows[STREAM] -= bytes;
}

function write(bytes) {
  if (socket.write(bytes)) return;
  isWaiting = true;
  socket.once('drain', () => {
    isWaiting = false;
    pump();
  });
}

function fail(problem) {
  console.error(`sending failed: ${problem}`);
  process.exit(1);
}

/** RFC 9113 §6.9.2: the window changes by the difference to the last initial size. */
function resizeWindow(size) {
  windows[STREAM] += size - initialWindow;
  initialWindow = size;
}

function onFrame(type, flags, stream, payload) {
  if (type === SETTINGS && (flags & 1) === 0) {
    for (let at = 0; at < payload.length; at += 6)
      if (payload.readUInt16BE(at) === 4) resizeWindow(payload.readUInt32BE(at + 2));
    socket.write(frame(SETTINGS, 1, 0));
  } else if (type === WINDOW_UPDATE) windows[stream === 0 ? CONNECTION : STREAM] += payload.readUInt32BE(0);
  else if (type === PING && (flags & 1) === 0) socket.write(frame(PING, 1, 0, payload));
  else if (type === RST_STREAM || type === GOAWAY)
    fail(`the stream was ended (frame ${type}, ${payload.toString('hex')})`);
  else if (type === HEADERS) onHeaders(payload);
  if ((type === HEADERS || type === DATA) && (flags & 1) === 1) fail('answered with another status than 200');
  pump();
}

/** RFC 7541 Appendix A: entry 8 of the static table is `:status: 200`. Other blocks are those of interim responses. */
function onHeaders(payload) {
  if (payload[0] !== 0x88) return;
  const now = performance.now();
  const seconds = (now - startedAt) / 1000;
  console.log(JSON.stringify({ seconds, afterLastByteSeconds: (now - lastByteAt) / 1000, status: 200 }));
  process.exit(0);
}

let unread = Buffer.alloc(0);
const socket = connect({
  host: hostname,
  port,
  rejectUnauthorized: false,
  ALPNProtocols: ['h2'],
  highWaterMark: 4 * 1024 ** 2,
});
socket.on('error', ({ message }) => fail(message)).on('close', () => fail('the connection was closed'));
socket.on('data', (bytes) => {
  unread = unread.length === 0 ? bytes : Buffer.concat([unread, bytes]);
  while (unread.length >= 9 && unread.length >= 9 + unread.readUIntBE(0, 3)) {
    const end = 9 + unread.readUIntBE(0, 3);
    const [type, flags, stream, payload] = [unread[3], unread[4], unread.readUInt32BE(5), unread.subarray(9, end)];
    unread = unread.subarray(end);
    onFrame(type, flags, stream, payload);
  }
});
socket.once('secureConnect', () => {
  const pseudo = [
    [':method', method],
    [':scheme', 'https'],
    [':path', pathname],
    [':authority', host],
  ];
  const fields = fieldBlock([...pseudo, ...Object.entries({ ...headers, 'content-length': size })]);
  socket.write(
    Buffer.concat([
      Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'),
      frame(SETTINGS, 0, 0),
      frame(HEADERS, 4, STREAM, fields),
    ]),
  );
  pump();
});
