// Clients that trickle, drip and send one byte at a time: `node tiny-pieces.mjs URL`, until it is killed. One that is ended
// comes again. Each writes what it has come to when it gets SIGTERM.
import { connect } from 'node:net';

const [url] = process.argv.slice(2);
const { hostname, port, host } = new URL(url);
/** Of each kind: 24 of the three that are promised for, over both versions of HTTP. */
const EACH = 3;
/** The least that `limits.min_rate` takes is 100 bytes a second. */
const JUST_ENOUGH_MS = 9;
const AGAIN_MS = 200;
const counts = {};
const open = new Map();

const CHUNKED = `POST /pieces HTTP/1.1\r\nHost: ${host}\r\nUpload-Complete: ?0\r\nTransfer-Encoding: chunked\r\n\r\n`;
const LONG = `POST /pieces HTTP/1.1\r\nHost: ${host}\r\nUpload-Complete: ?1\r\nContent-Length: 1000000000\r\n\r\n`;

/** Connects, and again when it is ended; `play` gives what is to be stopped then. */
function keepOn(name, play) {
  const socket = connect(Number(port), hostname);
  counts[name] ??= { connections: 0, bytes: 0 };
  counts[name].connections++;
  const stop = play(socket);
  open.set(socket, name);
  socket.on('error', () => undefined);
  socket.once('close', () => {
    count(name, socket);
    open.delete(socket);
    stop?.();
    setTimeout(() => keepOn(name, play), AGAIN_MS);
  });
}

function count(name, { bytesWritten, bytesRead }) {
  counts[name].bytes += bytesWritten + bytesRead;
}

function every(ms, step) {
  const timer = setInterval(step, ms);
  return () => clearInterval(timer);
}

/** Writes the same again and again, as fast as it is taken. */
function flood(socket, bytes) {
  const more = () => {
    while (!socket.destroyed && socket.write(bytes));
  };
  socket.on('drain', more);
  more();
}

function frame(type, flags, stream, payload) {
  const head = Buffer.alloc(9);
  head.writeUIntBE(payload.length, 0, 3);
  head.writeUInt8(type, 3);
  head.writeUInt8(flags, 4);
  head.writeUInt32BE(stream, 5);
  return Buffer.concat([head, Buffer.from(payload, 'latin1')]);
}

/** RFC 7541 §6.2.2: literal fields, as they are. */
function block(fields) {
  const text = (value) => String.fromCharCode(value.length) + value;
  return fields.map(([name, value]) => `\0${text(name)}${text(value)}`).join('');
}

const [DATA, HEADERS, SETTINGS, PING, WINDOW, CONTINUATION] = [0, 1, 4, 6, 8, 9];
const PREFACE = Buffer.concat([Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'), frame(SETTINGS, 0, 0, '')]);
const requestFields = (method, target) => [
  [':method', method],
  [':scheme', 'http'],
  [':path', target],
  [':authority', host],
  ...(method === 'POST' ? [['upload-complete', '?0']] : []),
];

/** Reads the frames of a server: answers its questions, and tells how far its windows open. */
function readFrames(socket, onWindow) {
  let unread = Buffer.alloc(0);
  socket.on('data', (bytes) => {
    unread = Buffer.concat([unread, bytes]);
    while (unread.length >= 9 && unread.length >= 9 + unread.readUIntBE(0, 3)) {
      const size = unread.readUIntBE(0, 3);
      const [type, flags, stream] = [unread[3], unread[4], unread.readUInt32BE(5)];
      const payload = unread.subarray(9, 9 + size);
      unread = unread.subarray(9 + size);
      if (type === PING && flags === 0) socket.write(frame(PING, 1, 0, payload.toString('latin1')));
      else if (type === SETTINGS && flags === 0) {
        socket.write(frame(SETTINGS, 1, 0, ''));
        for (let at = 0; at + 6 <= size; at += 6)
          if (payload.readUInt16BE(at) === 4) onWindow(1, payload.readUInt32BE(at + 2) - 65_535);
      } else if (type === WINDOW) onWindow(stream, payload.readUInt32BE(0));
    }
  });
}

const BATCH = 2000;

const KINDS = {
  'one-byte chunks': (socket) => {
    socket.resume();
    socket.write(CHUNKED);
    flood(socket, Buffer.from('1\r\nx\r\n'.repeat(10_000)));
  },

  /** Each frame has one byte: a library would put many into one. */
  'one-byte DATA': (socket) => {
    const windows = { 0: 65_535, 1: 65_535 };
    const batch = Buffer.concat(Array.from({ length: BATCH }, () => frame(DATA, 0, 1, 'x')));
    let isFull = false;
    const more = () => {
      while (!isFull && !socket.destroyed && windows[0] >= BATCH && windows[1] >= BATCH) {
        windows[0] -= BATCH;
        windows[1] -= BATCH;
        isFull = !socket.write(batch);
      }
    };
    socket.on('drain', () => ((isFull = false), more()));
    readFrames(socket, (stream, by) => {
      if (stream in windows) windows[stream] += by;
      more();
    });
    socket.write(Buffer.concat([PREFACE, frame(HEADERS, 4, 1, block(requestFields('POST', '/frames')))]));
  },

  /** Many streams that each begin with as many single bytes as one read brings. */
  'one-byte DATA of new streams': (socket) => {
    let stream = -1;
    readFrames(socket, () => undefined);
    socket.write(PREFACE);
    return every(100, () => {
      if (socket.destroyed || socket.writableNeedDrain) return;
      stream += 2;
      const frames = [frame(HEADERS, 4, stream, block(requestFields('POST', '/frames')))];
      for (let count = 0; count < 500; count++) frames.push(frame(DATA, count === 499 ? 1 : 0, stream, 'x'));
      socket.write(Buffer.concat(frames));
    });
  },

  'a trickling head over HTTP/1.1': (socket) => {
    socket.resume();
    socket.write(`GET / HTTP/1.1\r\nHost: ${host}\r\nX-A: `);
    return every(JUST_ENOUGH_MS, () => socket.destroyed || socket.write('x'));
  },

  'a trickling head over HTTP/2': (socket) => {
    readFrames(socket, () => undefined);
    const begin = frame(HEADERS, 0, 1, block(requestFields('GET', '/')));
    // A field with a value of 15,000 bytes, which come one by one.
    const rest = frame(CONTINUATION, 4, 1, `\0\x03x-a\x7f\x99\x74${'x'.repeat(15_000)}`).subarray(0, 9 + 8);
    socket.write(Buffer.concat([PREFACE, begin, rest]));
    return every(JUST_ENOUGH_MS, () => socket.destroyed || socket.write('x'));
  },

  'a trickling body': (socket) => {
    socket.resume();
    socket.write(LONG);
    return every(JUST_ENOUGH_MS, () => socket.destroyed || socket.write('x'));
  },

  'trickling chunks': (socket) => {
    socket.resume();
    socket.write(CHUNKED);
    return every(6 * JUST_ENOUGH_MS, () => socket.destroyed || socket.write('1\r\nx\r\n'));
  },

  'trickling DATA': (socket) => {
    readFrames(socket, () => undefined);
    socket.write(Buffer.concat([PREFACE, frame(HEADERS, 4, 1, block(requestFields('POST', '/frames')))]));
    return every(JUST_ENOUGH_MS, () => socket.destroyed || socket.write(frame(DATA, 0, 1, 'x')));
  },

  'a dripping reader over HTTP/1.1': (socket) => {
    socket.pause();
    socket.write(`GET /big HTTP/1.1\r\nHost: ${host}\r\n\r\n`);
    return every(10, () => socket.read(100) ?? socket.read(1));
  },

  /** Opens its window byte by byte: each lets the server send a frame of one byte. */
  'a dripping reader over HTTP/2': (socket) => {
    readFrames(socket, () => undefined);
    const small = frame(SETTINGS, 0, 0, '\0\x04\0\0\0\x01');
    socket.write(Buffer.concat([PREFACE, small, frame(HEADERS, 5, 1, block(requestFields('GET', '/big')))]));
    const wider = Buffer.concat([0, 1].map((stream) => frame(WINDOW, 0, stream, '\0\0\0\x01')));
    return every(1, () => socket.destroyed || socket.writableNeedDrain || socket.write(wider));
  },
};

for (const [name, play] of Object.entries(KINDS)) for (let count = 0; count < EACH; count++) keepOn(name, play);

process.once('SIGTERM', () => {
  for (const [socket, name] of open) count(name, socket);
  console.log(JSON.stringify(counts));
  process.exit();
});
