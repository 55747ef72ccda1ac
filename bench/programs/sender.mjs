// Sends one body as fast as it is taken, and prints how long that took until the final response.
// node sender.mjs '{"url": …, "method": …, "headers": {…}, "size": …}'
import { request } from 'node:http';

const { url, method, headers, size } = JSON.parse(process.argv[2]);
const piece = Buffer.alloc(1024 * 1024, 'rufh-proxy ');
const startedAt = performance.now();
const sending = request(url, { method, headers: { ...headers, 'Content-Length': size } });
let left = size;
let location;

function pump() {
  while (left > 0) {
    const bytes = left < piece.length ? piece.subarray(0, left) : piece;
    left -= bytes.length;
    if (!sending.write(bytes)) return void sending.once('drain', pump);
  }
  sending.end();
}

sending.on('response', (response) => {
  response.resume();
  response.on('end', () => {
    const seconds = (performance.now() - startedAt) / 1000;
    console.log(
      JSON.stringify({ seconds, status: response.statusCode, location: location ?? response.headers.location }),
    );
    process.exit(0);
  });
});
sending.on('error', (error) => {
  console.error(`sending failed: ${error.message}`);
  process.exit(1);
});
sending.on('information', (interim) => (location ??= interim.headers.location));
pump();
