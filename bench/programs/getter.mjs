// Reads one long response into a buffer that is used again and again, and prints how long that took.
// node getter.mjs '{"url": …, "size": …}'
import { connect } from 'node:net';

const { url, size } = JSON.parse(process.argv[2]);
const { hostname, port, host, pathname } = new URL(url);
const startedAt = performance.now();
/** Without the head. */
let received = 0;
let isInBody = false;

function fail(problem) {
  console.error(`reading failed: ${problem}`);
  process.exit(1);
}

function count(bytes, buffer) {
  received += bytes;
  if (!isInBody) {
    // The head comes in one piece: it is short.
    const head = buffer.subarray(0, bytes).latin1Slice();
    if (!head.startsWith('HTTP/1.1 200') || !head.includes('\r\n\r\n')) fail(`this came: ${head.slice(0, 200)}`);
    received -= head.indexOf('\r\n\r\n') + 4;
    isInBody = true;
  }
  if (received >= size) finish();
  return true;
}

function finish() {
  console.log(JSON.stringify({ seconds: (performance.now() - startedAt) / 1000 }));
  process.exit(0);
}

const onread = { buffer: Buffer.alloc(256 * 1024), callback: count };
const socket = connect({ host: hostname, port, onread });
socket.on('error', ({ message }) => fail(message));
socket.on('close', () => fail(`only ${received} bytes came`));
socket.write(`GET ${pathname} HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`);
