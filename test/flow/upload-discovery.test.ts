import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { creationLines, versionLines } from '../support/resumable-client.js';
import { Stage } from '../support/stage.js';
import { StageClient, VARIANTS } from '../support/stage-client.js';
import { told } from '../support/told.js';

const LIMITS = 'max-size=1000000, min-size=10, max-append-size=50000, min-append-size=5';

let stage: Stage;

beforeAll(async () => {
  stage = await Stage.open({
    config: `
limits: { max_size: 1000000, min_size: 10, max_append_size: 50000, min_append_size: 5, max_age: 2h }
routes:
  - match: { path: /files/**, methods: [POST, PUT] }
  - match: { path: /plain/** }
    resumable: false
`,
  });
});

afterAll(async () => {
  await stage.close();
});

test.each(VARIANTS)(
  'over $transport, interop $interop, a target tells its limits beside what the origin says of it',
  async ({ transport, interop, seed }) => {
    const client = new StageClient(stage, transport, interop);
    const target = `/files/x?seed=${seed}`;
    stage.answer(target, {
      status: 200,
      headers: [
        ['Allow', 'GET, POST'],
        ['X-Origin', 'yes'],
        ['Accept-Patch', 'application/json-patch+json'],
        ['Upload-Limit', 'max-size=1'],
        ['Content-Type', 'text/plain'],
      ],
      body: 'words about it',
    });
    const headers = versionLines(client.dialect);
    const response = await client.send({ method: 'OPTIONS', target, headers });
    const lines = [
      'Allow: GET, POST',
      'X-Origin: yes',
      'Content-Type: text/plain',
      'Content-Length: 14',
      'Date: <now>',
      ...headers.map(([name, value]) => `${name}: ${value}`),
      `Upload-Limit: ${LIMITS}, ${interop === '6' ? 'expires' : 'max-age'}=<all>`,
      'Accept-Patch: application/json-patch+json, application/partial-upload',
    ];
    expect(told(response, { maxAgeSeconds: 7200 })).toEqual({
      status: 200,
      lines: transport === 'HTTP/1.1' ? [...lines, 'Connection: keep-alive', 'Keep-Alive: timeout=75'] : lower(lines),
      body: 'words about it',
    });
    expect(stage.requestsFor(target)).toMatchObject([{ method: 'OPTIONS', size: 0 }]);
  },
);

function lower(lines: readonly string[]): string[] {
  return lines.map((line) => line.replace(/^[^:]+/, (name) => name.toLowerCase()));
}

test.each([404, 405, 501])('an origin that answers OPTIONS with %i is left out of it', async (status) => {
  const client = new StageClient(stage, 'HTTP/1.1', 'final');
  const target = `/files/unknown?status=${status}`;
  stage.answer(target, { status, headers: [['Allow', 'GET']], body: 'not that' });
  const response = await client.send({ method: 'OPTIONS', target });
  expect(response).toMatchObject({ status: 200 });
  expect(response.header('Allow')).toBeUndefined();
  expect(response.header('Upload-Limit')).toBe(`${LIMITS}, max-age=7200`);
  expect(response.header('Accept-Patch')).toBe('application/partial-upload');
});

test('a discovery that names completeness is a discovery', async () => {
  const client = new StageClient(stage, 'HTTP/1.1', 'final');
  const headers = creationLines(client.dialect, { complete: true });
  const response = await client.send({ method: 'OPTIONS', target: '/files/named', headers });
  expect(response.status).toBe(200);
  expect(response.header('Upload-Limit')).toBe(`${LIMITS}, max-age=7200`);
});

test('an upload tells its limits without asking the origin', async () => {
  const client = new StageClient(stage, 'HTTP/1.1', '8', LIMITS);
  const created = await client.send({
    method: 'POST',
    target: '/files/y',
    headers: creationLines(client.dialect, { complete: false, length: 20 }),
    body: '',
  });
  const { target } = client.at(created.header('Location')!);
  const response = await client.send({ method: 'OPTIONS', target, headers: versionLines(client.dialect) });
  expect(response.status).toBe(200);
  expect(response.header('Upload-Limit')).toBe(`${LIMITS}, max-age=7200`);
  expect(stage.requestsFor(target)).toEqual([]);
});

test.each(['/plain/x', '/elsewhere'])(
  'OPTIONS on %s, which is not resumable, is the origin’s alone',
  async (target) => {
    stage.answer(target, { status: 200, headers: [['Allow', 'GET']], body: 'words' });
    const response = await stage.send('HTTP/1.1', { method: 'OPTIONS', target });
    expect(response).toMatchObject({ status: 200 });
    expect(response.body.toString()).toBe('words');
    expect(response.header('Upload-Limit')).toBeUndefined();
  },
);
