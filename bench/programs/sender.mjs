// Sends one body on a bare socket, as fast as it is taken or as fast as it may, and prints how long that took until the final response.
// node sender.mjs '{"url": …, "method": …, "headers": {…}, "size": …, "bytesPerSecond": …}'; a URL of https: is asked over HTTP/1.1.
import { connect } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { responseReader } from './responses.mjs';

const { url, method, headers, size, bytesPerSecond = Infinity } = JSON.parse(process.argv[2]);
const { protocol, hostname, port, host, pathname } = new URL(url);
const lines = Object.entries({ Host: host, ...headers, 'Content-Length': size });
const head = `${method} ${pathname} HTTP/1.1\r\n${lines.map(([name, value]) => `${name}: ${value}\r\n`).join('')}\r\n`;
const piece = Buffer.alloc(bytesPerSecond === Infinity ? 1024 ** 2 : 128 * 1024, 'rufh-proxy ');
const startedAt = performance.now();
let left = size;
let lastByteAt = startedAt;
let location;

function pump() {
  while (left > 0) {
    const dueAt = startedAt + ((size - left) / bytesPerSecond) * 1000;
    if (performance.now() < dueAt) return void setTimeout(pump, dueAt - performance.now());
    const bytes = left < piece.length ? piece.subarray(0, left) : piece;
    left -= bytes.length;
    const isTaken = socket.write(bytes, left > 0 ? undefined : () => (lastByteAt = performance.now()));
    if (!isTaken && left > 0) return void socket.once('drain', pump);
  }
}

function fail(problem) {
  console.error(`sending failed: ${problem}`);
  process.exit(1);
}

const options = { host: hostname, port, noDelay: true, highWaterMark: 4 * 1024 ** 2 };
const socket =
  protocol === 'https:'
    ? connectTls({ ...options, rejectUnauthorized: false, ALPNProtocols: ['http/1.1'] })
    : connect(options);
socket.once(protocol === 'https:' ? 'secureConnect' : 'connect', () => {
  socket.write(head);
  pump();
});
socket.on('error', ({ message }) => fail(message)).on('close', () => fail('the connection was closed'));
const read = responseReader((status, fields) => {
  location ??= /\r\nlocation: *(\S+)/i.exec(fields)?.[1];
  if (status < 200) return;
  const now = performance.now();
  const seconds = (now - startedAt) / 1000;
  console.log(JSON.stringify({ seconds, afterLastByteSeconds: (now - lastByteAt) / 1000, status, location }));
  process.exit(0);
});
socket.on('data', read);
