import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import {
  missingTests,
  row,
  seenAtTop,
  type SettingProbe,
  type SettingRow,
  settingsOf,
  testAtBothLevels,
} from '../support/settings.js';
import { storedIdOf } from '../support/stored-id.js';
import { until } from '../support/temporary.js';

const SEEN_AS_FORM = seenAtTop('e2e/multipart-backends.test.ts', '%s takes a resumed upload as an ordinary form');
const RETRY_ONCE = 'attempts: 1, in_background: 0s';
const QUICK_RETRY = 'first_delay: 1ms, longest_delay: 1ms';

const ANSWERS: SettingRow[] = [
  row('delivery.timeout', `delivery: { timeout: 100ms, retry: { ${RETRY_ONCE} } }`, async (probe) => {
    probe.origin.answerWith(probe.silence);
    expect((await probe.get()).status).toBe(504);
    // An answer that is too late would be 502: `answer_timeout` is four times as long.
    expect((await probe.upload()).status).toBe(503);
  }),
  row('delivery.answer_timeout', 'delivery: { answer_timeout: 100ms }', async (probe) => {
    probe.origin.answerWith(probe.silence);
    expect((await probe.upload()).status).toBe(502);
  }),
  row('delivery.max_answer_size', 'delivery: { max_answer_size: 4 }', async (probe) => {
    probe.origin.answerWith({ body: 'hello' });
    expect((await probe.upload()).status).toBe(502);
  }),
  row('delivery.wait', 'delivery: { wait: 50ms }', async (probe) => {
    probe.origin.answerWith(probe.silence);
    expect((await probe.upload()).header('Retry-After')).toBe('30');
  }),
  row(
    'delivery.respond',
    'delivery: { respond: accepted }',
    async (probe) => expect((await probe.upload()).status).toBe(202),
    seenAtTop('flow/delivery-waiting.test.ts', '%s gets 202 at once, and the answer at its status URL'),
  ),
  row('delivery.keep_answer', 'delivery: { keep_answer: 7000s }', async (probe) => {
    const upload = await probe.begin();
    expect((await upload.append('hello', { offset: 0, complete: true })).status).toBe(200);
    expect((await upload.retrieve()).header('Upload-Limit')).toMatch(/max-age=(?:69\d\d|7000)$/);
  }),
  row('delivery.keep_answer_size', 'delivery: { keep_answer_size: 4 }', async (probe) => {
    probe.origin.answerWith({ body: 'hello' });
    const upload = await probe.begin();
    await upload.append('x', { offset: 0, complete: true });
    expect(await readdir(join(probe.app.data, 'spool', storedIdOf(upload.url)))).toEqual(['answer-1-0']);
  }),
  row('delivery.rewrite_location', 'delivery: { rewrite_location: true }', async (probe) => {
    probe.origin.answerWith({ status: 201, headers: [['Location', `${probe.origin.url}/new`]] });
    expect((await probe.upload()).header('Location')).toBe(`${probe.app.url}/new`);
  }),
];

const WAITING: SettingRow[] = [
  row('delivery.guarantee', `delivery: { guarantee: at_least_once, retry: { ${QUICK_RETRY} } }`, async (probe) => {
    probe.origin.answerWith((_request, index) => (index === 0 ? { hangUp: true } : {}));
    expect((await probe.upload()).status).toBe(200);
  }),
  row('delivery.concurrency', 'delivery: { concurrency: 1, wait: 200ms }', async (probe) => {
    probe.origin.answerWith(probe.silence);
    const first = probe.upload('first');
    await probe.origin.waitForRequests(1);
    expect((await probe.upload('second')).status).toBe(504);
    await first;
    expect(probe.origin.requests.map(({ body }) => body.toString())).toEqual(['first']);
  }),
  row(
    'delivery.breaker.failures',
    `delivery: { breaker: { failures: 1, pause: 1000s }, retry: { attempts: 1 } }`,
    async (probe) => {
      probe.origin.answerWith({ status: 503 });
      await probe.upload('first');
      await probe.upload('second');
      expect(probe.origin.requests.map(({ body }) => body.toString())).toEqual(['first']);
    },
  ),
  row(
    'delivery.breaker.pause',
    `delivery: { breaker: { failures: 1, pause: 1000s }, retry: { attempts: 1 } }`,
    async (probe) => {
      probe.origin.answerWith({ status: 503 });
      await probe.upload('first');
      expect((await probe.upload('second')).header('Retry-After')).toMatch(/^(?:9\d\d|1000)$/);
    },
  ),
  row('delivery.retry.attempts', `delivery: { retry: { attempts: 2, ${QUICK_RETRY} } }`, async (probe) => {
    probe.origin.answerWith({ status: 503 });
    expect((await probe.upload()).status).toBe(503);
    expect(probe.origin.requests.length).toBe(2);
  }),
  row(
    'delivery.retry.first_delay',
    `delivery: { retry: { first_delay: 700s, longest_delay: 700s, ${RETRY_ONCE} } }`,
    async (probe) => {
      probe.origin.answerWith({ status: 503 });
      expect((await probe.upload()).header('Retry-After')).toBe('700');
    },
  ),
  row('delivery.retry.longest_delay', 'delivery: { wait: 50ms, retry: { longest_delay: 700s } }', async (probe) => {
    probe.origin.answerWith(probe.silence);
    expect((await probe.upload()).header('Retry-After')).toBe('700');
  }),
  row('delivery.retry.retry_on', `delivery: { retry: { retry_on: [500], ${QUICK_RETRY} } }`, async (probe) => {
    probe.origin.answerWith((_request, index) => ({ status: index === 0 ? 500 : 201 }));
    expect((await probe.upload()).status).toBe(201);
  }),
  row('delivery.retry.while_waiting', 'delivery: { retry: { while_waiting: 0s, first_delay: 1s } }', async (probe) => {
    probe.origin.answerWith((_request, index) => ({ status: index === 0 ? 503 : 201 }));
    expect((await probe.upload()).status).toBe(503);
  }),
  row('delivery.retry.in_background', 'delivery: { retry: { attempts: 1, in_background: 0s } }', async (probe) => {
    probe.origin.answerWith({ status: 503 });
    await probe.upload();
    const isGivenUp = ({ msg, route = '' }: Record<string, unknown>): boolean =>
      msg === 'upload kept: not delivered' && ['default', `${probe.path}/**`].includes(String(route));
    await until(() => probe.app.log.some(isGivenUp), 'the upload to be given up');
  }),
];

const REQUESTS: SettingRow[] = [
  row('delivery.preserve_host', 'delivery: { preserve_host: false }', async (probe) => {
    await probe.upload();
    await probe.get();
    const { host } = new URL(probe.origin.url);
    expect(probe.origin.requests.map((request) => request.header('Host'))).toEqual([host, host]);
  }),
  row('delivery.method', 'delivery: { method: PUT }', async (probe) => {
    await probe.upload();
    expect(probe.origin.requests[0]!.method).toBe('PUT');
  }),
  row('delivery.target', 'delivery: { target: "/moved{path}" }', async (probe) => {
    await probe.upload();
    expect(probe.origin.requests[0]!.target).toBe(`/moved${probe.path}/x`);
  }),
  ...['delivery: { framing: multipart }', 'delivery: { framing: { type: multipart } }'].map((value, at) =>
    row(at === 0 ? 'delivery.framing' : 'delivery.framing.type', value, async (probe) => {
      await probe.upload();
      expect(probe.origin.requests[0]!.header('Content-Type')).toMatch(/^multipart\/form-data/);
    }),
  ),
  row(
    'delivery.framing.field',
    'delivery: { framing: { field: photo } }',
    (probe) => hasPart(probe, /name="photo"/),
    SEEN_AS_FORM,
  ),
  row(
    'delivery.framing.fields',
    'delivery: { framing: { fields: { album: 7 } } }',
    (probe) => hasPart(probe, /name="album"\r\n\r\n7\r\n/),
    SEEN_AS_FORM,
  ),
  row(
    'delivery.framing.fields_from_headers',
    'delivery: { framing: { fields_from_headers: { title: X-Title } } }',
    (probe) => hasPart(probe, /name="title"\r\n\r\nSea\r\n/),
    SEEN_AS_FORM,
  ),
  row(
    'delivery.framing.fields_from_metadata',
    'delivery: { framing: { fields_from_metadata: { album: albumName } } }',
    async (probe) => {
      await probe.upload('hello', [['Upload-Metadata', 'albumName U2Vh']]);
      expect(probe.origin.requests[0]!.body.toString()).toMatch(/name="album"\r\n\r\nSea\r\n/);
    },
  ),
  row('delivery.credentials', 'delivery: { credentials: [X-Key] }', async (probe) => {
    const upload = await probe.begin('', [['X-Key', 'old']]);
    await upload.append('hello', { offset: 0, complete: true }, [['X-Key', 'new']]);
    expect(probe.origin.requests[0]!.header('X-Key')).toBe('new');
  }),
  row(
    'delivery.park_on',
    'delivery: { park_on: [419] }',
    async (probe) => {
      probe.origin.answerWith((request) => ({ status: request.header('Cookie') === 'new' ? 201 : 419 }));
      const upload = await probe.begin('hell');
      const end = { offset: 4, complete: true };
      expect((await upload.append('o', end, [['Cookie', 'old']])).status).toBe(419);
      expect((await upload.append('o', end, [['Cookie', 'new']])).status).toBe(201);
    },
    seenAtTop('flow/access.test.ts', 'a new %s delivers a parked upload with %j: %i'),
  ),
  row('delivery.client_keys', 'delivery: { client_keys: true }', async (probe) => {
    const key: HeaderLine = ['Idempotency-Key', `key of ${probe.path}`];
    const locations = [await probe.begin('', [key]), await probe.begin('', [key])].map(({ url }) => url);
    expect(locations[0]).toBe(locations[1]);
  }),
  row(
    'delivery.mode',
    'delivery: { mode: eager }',
    async (probe) => {
      await probe.begin('hell', [], 5);
      await until(() => probe.origin.requests.length === 1, 'the request of an upload that is not complete');
    },
    seenAtTop('flow/eager.test.ts', 'the origin is fed, with the exact length and in one request'),
  ),
  row(
    'delivery.eager.idle',
    'delivery: { mode: eager, eager: { idle: 500ms } }',
    async (probe) => {
      await probe.begin('hell', [], 5);
      await until(() => probe.origin.requests[0]?.ended === 'cut', 'the request to be cut', 5000);
    },
    seenAtTop('flow/eager.test.ts', 'for too long, the request of the origin is cut, and a fresh one brings the whole'),
  ),
  row(
    'delivery.eager.unknown_length',
    'delivery: { mode: eager, eager: { unknown_length: wait } }',
    async (probe) => {
      const upload = await probe.begin('hell');
      await upload.append('o', { offset: 4, complete: true });
      expect(probe.origin.requests.map((request) => request.header('Content-Length'))).toEqual(['5']);
    },
    seenAtTop('flow/eager.test.ts', 'an origin that needs a length gets its request once the length is known'),
  ),
];

async function hasPart(probe: SettingProbe, part: RegExp): Promise<void> {
  await probe.upload('hello', [['X-Title', 'Sea']]);
  expect(probe.origin.requests[0]!.body.toString()).toMatch(part);
}

const GATES: SettingRow[] = [
  row('delivery.gate.http', ({ service }) => `delivery: { gate: { http: "${service.url}/gate" } }`, isRefusedByGate),
  row(
    'delivery.gate.command',
    'delivery: { gate: { command: [/bin/sh, -c, "cat; exit 1"] } }',
    isRefusedByGate,
    seenAtTop(
      'flow/gate.test.ts',
      'what it refuses never reaches the origin, in however many pieces it came, and the refusal is kept',
    ),
  ),
  row(
    'delivery.gate.timeout',
    ({ service }) => `delivery: { gate: { http: "${service.url}", timeout: 50ms }, wait: 20s }`,
    async (probe) => {
      probe.service.answerWith(probe.silence);
      expect((await probe.upload()).status).toBe(503);
    },
  ),
];

async function isRefusedByGate(probe: SettingProbe): Promise<void> {
  probe.service.answerWith({ status: 422 });
  expect((await probe.upload()).status).toBe(422);
  expect(probe.origin.requests).toEqual([]);
}

const ROWS = [...ANSWERS, ...WAITING, ...REQUESTS, ...GATES];

testAtBothLevels(ROWS);

describe('rows', () => {
  test('every setting of a delivery has one, and every row a setting', () => {
    const rows = ROWS.flatMap(({ setting }) => [setting, `routes.${setting}`]);
    expect(rows.sort()).toEqual(settingsOf('delivery'));
  });

  test('the tests that rows name exist', () => {
    expect(missingTests(ROWS.flatMap(({ seen }) => seen))).toEqual([]);
  });
});
