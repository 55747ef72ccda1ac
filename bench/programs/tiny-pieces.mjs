// Clients that send one byte at a time, drip, and leave what they are sent unread: `node tiny-pieces.mjs URL`, until it is killed.
import { connect as connectH2 } from 'node:http2';
import { connect } from 'node:net';

const [url] = process.argv.slice(2);
const { hostname, port, host } = new URL(url);
const EACH = 6;

function open(bytes) {
  const socket = connect(Number(port), hostname);
  socket.on('error', () => undefined);
  socket.write(bytes);
  return socket;
}

const upload = `POST /pieces HTTP/1.1\r\nHost: ${host}\r\nUpload-Complete: ?0\r\nTransfer-Encoding: chunked\r\n\r\n`;
const chunks = Buffer.from('1\r\nx\r\n'.repeat(10_000));

/** One-byte chunks, as fast as they are taken. */
function sendChunks() {
  const socket = open(upload);
  socket.resume();
  const more = () => {
    while (!socket.destroyed && socket.write(chunks));
  };
  socket.on('drain', more);
  more();
}

/** One-byte DATA frames, as fast as they are taken. */
function sendFrames() {
  const session = connectH2(url);
  session.on('error', () => undefined);
  const stream = session.request({ ':method': 'POST', ':path': '/frames', 'upload-complete': '?0' });
  stream.on('error', () => undefined);
  const more = () => {
    for (let count = 0; count < 1000 && !stream.destroyed; count++)
      if (!stream.write('x')) return void stream.once('drain', more);
    setImmediate(more);
  };
  more();
}

/** A byte now and then. */
function drip() {
  const socket = open(upload);
  socket.resume();
  setInterval(() => socket.destroyed || socket.write('1\r\nx\r\n'), 10);
}

/** Asks for much and reads next to nothing. */
function trickle() {
  const socket = open(`GET /big HTTP/1.1\r\nHost: ${host}\r\n\r\n`);
  socket.pause();
  setInterval(() => socket.read(1), 10);
}

for (let count = 0; count < EACH; count++) for (const attack of [sendChunks, sendFrames, drip, trickle]) attack();
