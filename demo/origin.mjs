// A small ordinary HTTP API: it takes files by POST or PUT and answers with JSON. It contains nothing about resumable
// uploads. Plain Node, no packages:  node demo/origin.mjs   (PORT, HOST; GET / lists what it got)
import { createHash } from 'node:crypto';
import { createServer } from 'node:http';

/** Every upload so far, as this origin saw it. */
const received = [];

const server = createServer({ requestTimeout: 0 }, (request, response) => {
  const taking = request.method === 'POST' || request.method === 'PUT';
  const playing = taking ? take(request, response) : Promise.resolve(answer(response, 200, received));
  playing.catch(() => response.destroy());
});

async function take(request, response) {
  const upload = { method: request.method, target: request.url, headers: request.rawHeaders, size: 0, whole: false };
  const id = received.push(upload);
  const hash = createHash('sha256');
  for await (const bytes of request) {
    upload.size += bytes.length;
    hash.update(bytes);
  }
  Object.assign(upload, { whole: true, sha256: hash.digest('hex') });
  console.log(`${request.method} ${request.url}: ${upload.size} bytes, SHA-256 ${upload.sha256}`);
  upload.answer = { id, size: upload.size, sha256: upload.sha256 };
  answer(response, 201, upload.answer, { Location: `/files/${id}` });
}

function answer(response, status, value, headers = {}) {
  response.writeHead(status, { 'Content-Type': 'application/json', ...headers });
  response.end(`${JSON.stringify(value)}\n`);
}

server.listen(Number(process.env.PORT ?? 3000), process.env.HOST ?? '127.0.0.1', () => {
  const { address, port } = server.address();
  console.log(`listening on http://${address.includes(':') ? `[${address}]` : address}:${port}`);
});
for (const signal of ['SIGTERM', 'SIGINT']) process.once(signal, () => process.exit(0));
