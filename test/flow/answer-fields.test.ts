import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import { TRANSPORTS } from '../support/client.js';
import { FlowClient, VARIANTS } from '../support/flow-client.js';
import { appendLines, creationLines } from '../support/resumable-client.js';
import { TestProxy } from '../support/test-proxy.js';
import type { WireResponse } from '../support/wire.js';

let proxy: TestProxy;
beforeAll(async () => {
  proxy = await TestProxy.open({
    config: `
alt_svc: h3=":443"; ma=60
routes:
  - match: { path: /own/** }
    delivery: { preserve_host: false }
  - match: { path: /kept/** }
    delivery: { preserve_host: false, rewrite_location: false }
  - match: { path: /api/** }
`,
  });
});
afterAll(() => proxy.close());

const references = (response: WireResponse): (string | undefined)[] =>
  ['Location', 'Content-Location', 'Link'].map((name) => response.header(name));

function answering(target: string, value: string): void {
  const headers: HeaderLine[] = [
    ['Location', value],
    ['Content-Location', value],
    ['Link', value],
    ['Alt-Svc', 'h3=":8443"'],
  ];
  proxy.answer(target, { status: 201, headers, body: 'ok' });
}

describe.each(VARIANTS)('over $transport, interop $interop', ({ transport, interop, seed }) => {
  test.each([
    ['7', '/api/files/7'],
    ['../jobs/7', '/api/jobs/7'],
    ['?id=7', `/api/files/new-?id=7`],
    ['/jobs/7', '/jobs/7'],
    ['//other.example/7', '//other.example/7'],
    ['https://other.example/7', 'https://other.example/7'],
  ])(
    '%s as the answer to an append means what it means at the target, as often as it is asked for',
    async (said, meant) => {
      const client = new FlowClient(proxy, transport, interop);
      const target = `/api/files/new-?seed=${seed}&said=${encodeURIComponent(said)}`;
      answering(target, said);
      const created = await client.send({
        method: 'POST',
        target,
        headers: creationLines(client.dialect, { complete: false }),
        body: 'abc',
      });
      const at = client.at(created.header('Location')!).target;
      const end = { method: 'PATCH', target: at, headers: appendLines(client.dialect, { offset: 3, complete: true }) };
      const first = await client.send({ ...end, body: 'de' });
      expect([first.status, ...references(first)]).toEqual([201, meant, meant, said]);
      const headers = appendLines(client.dialect, { offset: 5, complete: true });
      const again = await client.send({ method: 'PATCH', target: at, headers, body: '' });
      expect(references(again)).toEqual([meant, meant, said]);
      expect(again.header('Alt-Svc')).toBe('h3=":443"; ma=60');
    },
  );

  test('as the answer to a creation it stays as it is', async () => {
    const client = new FlowClient(proxy, transport, interop);
    const target = `/api/files/one?seed=${seed}`;
    answering(target, '7');
    const headers = creationLines(client.dialect, { complete: true });
    const response = await client.send({ method: 'POST', target, headers, body: 'abc' });
    expect(references(response)).toEqual(['7', '7', '7']);
    expect(response.header('Alt-Svc')).toBe('h3=":443"; ma=60');
  });

  test('a host of the origin’s own becomes the one that the client knows', async () => {
    const client = new FlowClient(proxy, transport, interop);
    for (const [path, meant] of [
      ['/own/a', `${proxy.base}/files/7`],
      ['/kept/a', `${proxy.origin.url}/files/7`],
      ['/api/a', `${proxy.origin.url}/files/7`],
    ] as const) {
      const target = `${path}?seed=${seed}`;
      answering(target, `${proxy.origin.url}/files/7`);
      const headers = creationLines(client.dialect, { complete: true });
      const response = await client.send({ method: 'POST', target, headers, body: 'abc' });
      expect(references(response)).toEqual([meant, meant, `${proxy.origin.url}/files/7`]);
    }
  });
});

test.each(TRANSPORTS)('over %s, what passes through is treated alike', async (transport) => {
  for (const [target, said, meant] of [
    [`/own/${transport}`, `${proxy.origin.url}/files/7`, `${proxy.base}/files/7`],
    [`/own/rel-${transport}`, '7', '7'],
    [`/kept/${transport}`, `${proxy.origin.url}/files/7`, `${proxy.origin.url}/files/7`],
  ] as const) {
    answering(target, said);
    const host: HeaderLine[] = transport === 'HTTP/1.1' ? [['Host', proxy.host]] : [];
    const response = await proxy.send(transport, { method: 'GET', target, headers: host });
    expect(references(response)).toEqual([meant, meant, said]);
    expect(response.header('Alt-Svc')).toBe('h3=":443"; ma=60');
  }
});

/** Every way that an answer takes to a client. */
const WAYS = ['passed through', 'of a whole upload', 'of an append', 'kept', 'on its page', 'of a discovery'] as const;

async function answerOnItsWay(client: FlowClient, way: (typeof WAYS)[number], target: string): Promise<WireResponse> {
  const { dialect } = client;
  if (way === 'passed through') return client.send({ method: 'GET', target, headers: [] });
  if (way === 'of a discovery') return client.send({ method: 'OPTIONS', target, headers: [] });
  const complete = way === 'of a whole upload';
  const created = await client.send({
    method: 'POST',
    target,
    headers: creationLines(dialect, { complete }),
    body: 'abc',
  });
  if (complete) return created;
  const at = client.at(created.header('Location')!).target;
  const end = { method: 'PATCH', target: at, headers: appendLines(dialect, { offset: 3, complete: true }) };
  const first = await client.send({ ...end, body: 'de' });
  if (way === 'of an append') return first;
  if (way === 'on its page') return client.send({ method: 'GET', target: `${at}/answer`, headers: [] });
  return client.send({ ...end, headers: appendLines(dialect, { offset: 5, complete: true }), body: '' });
}

describe.each(TRANSPORTS)('over %s, behind the body of an answer', (transport) => {
  test.each(WAYS)('%s stands nothing that its head may not say, and nothing of it is announced', async (way) => {
    const client = new FlowClient(proxy, transport, '9');
    const target = `/own/behind?${way.replaceAll(' ', '-')}-${transport}`;
    const location = `${proxy.origin.url}/files/7`;
    proxy.answer(target, {
      status: 200,
      headers: [
        ['Trailer', 'Alt-Svc, X-Sum'],
        ['trailer', 'ALT-SVC'],
        ['Trailer', 'Location'],
        ['Transfer-Encoding', 'chunked'],
      ],
      body: 'ok',
      trailers: [
        ['Alt-Svc', 'h3=":8443"'],
        ['X-Sum', '7'],
        ['Location', location],
      ],
    });
    const response = await answerOnItsWay(client, way, target);
    expect([response.status, response.body.toString()]).toEqual([200, 'ok']);
    expect(response.trailers.map(([name, value]) => [name.toLowerCase(), value])).toEqual([
      ['x-sum', '7'],
      ['location', `${proxy.base}/files/7`],
    ]);
    expect(response.header('Trailer')).toBe(transport === 'HTTP/1.1' ? 'X-Sum, Location' : undefined);
    expect(response.header('Alt-Svc')).toBe('h3=":443"; ma=60');
  });

  test.each(WAYS.slice(1, 5))('%s and in its head stands nothing in the name of an upload', async (way) => {
    const client = new FlowClient(proxy, transport, '9');
    const target = `/api/named?${way.replaceAll(' ', '-')}-${transport}`;
    const named: HeaderLine[] = [
      ['Upload-Length', '99'],
      ['Tus-Resumable', '1.0.0'],
    ];
    proxy.answer(target, {
      status: 200,
      headers: [...named, ['Trailer', 'Upload-Length, Tus-Resumable'], ['Transfer-Encoding', 'chunked']],
      body: 'ok',
      trailers: named,
    });
    const response = await answerOnItsWay(client, way, target);
    expect(['Upload-Length', 'Tus-Resumable', 'Trailer'].map((name) => response.header(name))).toEqual(
      Array(3).fill(undefined),
    );
    expect(response.trailers).toEqual([]);
  });
});
