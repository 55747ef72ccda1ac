// Sends one body as fast as it is taken, or as fast as it may, and prints how long that took until the final response.
// node sender.mjs '{"url": …, "method": …, "headers": {…}, "size": …, "bytesPerSecond": …}'
import { request } from 'node:http';

const { url, method, headers, size, bytesPerSecond = Infinity } = JSON.parse(process.argv[2]);
const piece = Buffer.alloc(1024 * 1024, 'rufh-proxy ');
const startedAt = performance.now();
const sending = request(url, { method, headers: { ...headers, 'Content-Length': size } });
let left = size;
let location;
let lastByteAt;

function pump() {
  while (left > 0) {
    const dueAt = startedAt + ((size - left) / bytesPerSecond) * 1000;
    if (performance.now() < dueAt) return void setTimeout(pump, dueAt - performance.now());
    const bytes = left < piece.length ? piece.subarray(0, left) : piece;
    left -= bytes.length;
    if (!sending.write(bytes)) return void sending.once('drain', pump);
  }
  sending.end(() => (lastByteAt = performance.now()));
}

sending.on('response', (response) => {
  response.resume();
  response.on('end', () => {
    const now = performance.now();
    const seconds = (now - startedAt) / 1000;
    const afterLastByteSeconds = (now - lastByteAt) / 1000;
    const { statusCode: status, headers } = response;
    console.log(JSON.stringify({ seconds, afterLastByteSeconds, status, location: location ?? headers.location }));
    process.exit(0);
  });
});
sending.on('error', (error) => {
  console.error(`sending failed: ${error.message}`);
  process.exit(1);
});
sending.on('information', (interim) => (location ??= interim.headers.location));
pump();
