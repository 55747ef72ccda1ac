// A Node server that throws every body away and answers 201: the floor for receiving, and the origin of the benches. What it
// is asked for at /big has no end worth waiting for.
import { createServer } from 'node:http';
import { Readable } from 'node:stream';

const BIG_BYTES = 2 ** 30;
const piece = Buffer.alloc(64 * 1024, 'x');

function* big() {
  for (let sent = 0; sent < BIG_BYTES; sent += piece.length) yield piece;
}

const server = createServer({ requestTimeout: 0 }, (request, response) => {
  request.resume();
  response.on('error', () => undefined);
  if (request.url === '/big') {
    response.writeHead(200, { 'Content-Length': `${BIG_BYTES}` });
    Readable.from(big()).pipe(response);
  } else request.on('end', () => response.writeHead(201, { 'Content-Length': '0' }).end());
});
server.listen(0, '127.0.0.1', () => console.log(JSON.stringify({ url: `http://127.0.0.1:${server.address().port}` })));
