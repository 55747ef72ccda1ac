// Clients for a flood, in a process of their own so that they take no time from what is measured:
//   node flood.mjs create URL SECONDS CONNECTIONS HEAD-BYTES   creates empty uploads as fast as it gets responses
//   node flood.mjs upload URL SECONDS FROM-ADDRESS             uploads 100 kB again and again, one after the other
// Prints what it got as JSON.
import http from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';

const [kind, url, seconds, ...rest] = process.argv.slice(2);
const until = performance.now() + Number(seconds) * 1000;

function send(agent, options, body = '') {
  return new Promise((resolve, reject) => {
    const request = http.request(new URL('/x', url), { ...options, method: 'POST', agent }, (response) => {
      response.resume().on('end', () => resolve(response));
      response.on('error', reject);
    });
    request.on('error', reject);
    request.end(body);
  });
}

async function create() {
  const [connections, headBytes] = rest.map(Number);
  const agent = new http.Agent({ keepAlive: true, maxSockets: connections });
  const fields = Object.fromEntries(
    Array.from({ length: 10 }, (_, at) => [`X-Field-${at}`, 'a'.repeat(Math.floor(headBytes / 10) - 20)]),
  );
  const headers = { ...fields, 'Upload-Complete': '?0', 'Content-Length': '0' };
  const got = { statuses: {}, withoutAdvice: 0, broken: 0 };
  const work = async () => {
    while (performance.now() < until) {
      try {
        const { statusCode, headers: fields } = await send(agent, { headers });
        got.statuses[statusCode] = (got.statuses[statusCode] ?? 0) + 1;
        if (statusCode === 429 && !/^[1-9]\d*$/.test(fields['retry-after'] ?? '')) got.withoutAdvice++;
      } catch {
        got.broken++;
        await sleep(10);
      }
    }
  };
  await Promise.all(Array.from({ length: connections }, work));
  agent.destroy();
  return got;
}

async function upload() {
  const [localAddress] = rest;
  const agent = new http.Agent({ keepAlive: true, localAddress });
  const body = Buffer.alloc(100_000, 'x');
  const ms = [];
  const failed = {};
  while (performance.now() < until) {
    // Well below what `limits.uploads` lets one address create in the long run.
    await sleep(40);
    const since = performance.now();
    const { statusCode } = await send(
      agent,
      { headers: { 'Upload-Complete': '?1', 'Content-Length': body.length } },
      body,
    );
    if (statusCode === 200) ms.push(performance.now() - since);
    else failed[statusCode] = (failed[statusCode] ?? 0) + 1;
    await sleep(5);
  }
  agent.destroy();
  ms.sort((a, b) => a - b);
  const quantile = (share) => Number((ms[Math.min(ms.length - 1, Math.floor(ms.length * share))] ?? 0).toFixed(1));
  return { count: ms.length, failed, p50: quantile(0.5), p99: quantile(0.99), max: quantile(1) };
}

process.stdout.write(JSON.stringify(await { create, upload }[kind]()));
