import { describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import {
  missingTests,
  type RouteRow,
  row,
  seenAtTop,
  seenInRoute,
  SettingProbe,
  type SettingRow,
  settingsOf,
  testAtBothLevels,
} from '../support/settings.js';
import { startTestApp } from '../support/test-proxy.js';
import type { WireResponse } from '../support/wire.js';

const LIMITS: SettingRow[] = [
  row(
    'limits.max_size',
    'limits: { max_size: 4 }',
    async (probe) => expect((await probe.upload('hello')).status).toBe(413),
    seenAtTop(
      'flow/upload-limits.test.ts',
      'a representation beyond max-size is refused before anything is kept, by either length',
    ),
  ),
  row(
    'limits.min_size',
    'limits: { min_size: 6 }',
    async (probe) => {
      await probe.upload('hello');
      expect(probe.origin.requests[0]!.header('Idempotency-Key')).toBeUndefined();
    },
    seenAtTop(
      'flow/upload-limits.test.ts',
      'a representation below min-size passes through if it is whole, and is an upload if more is to come',
    ),
  ),
  row(
    'limits.max_append_size',
    'limits: { max_append_size: 4 }',
    async (probe) => {
      const upload = await probe.begin();
      expect((await upload.append('hello', { offset: 0, complete: false })).status).toBe(413);
    },
    seenAtTop(
      'flow/upload-limits.test.ts',
      'an append beyond max-append-size is refused, whether it says so or not, and the upload stays',
    ),
  ),
  row(
    'limits.min_append_size',
    'limits: { min_append_size: 6 }',
    async (probe) => {
      const upload = await probe.begin();
      expect((await upload.append('hello', { offset: 0, complete: false })).status).toBe(400);
    },
    seenAtTop(
      'flow/upload-limits.test.ts',
      'an append below min-append-size is refused, whether it says so or not, unless it is the last',
    ),
  ),
  row('limits.max_age', 'limits: { max_age: 1000s }', async (probe) => {
    const created = await probe.post('hello', [['Upload-Complete', '?0']]);
    expect(created.header('Upload-Limit')).toMatch(/max-age=(?:9\d\d|1000)$/);
  }),
  row('limits.max_idle_empty', 'limits: { max_idle_empty: 1000s }', async (probe) => {
    const empty = await probe.post('', [['Upload-Complete', '?0']]);
    expect(empty.header('Upload-Limit')).toMatch(/max-age=(?:9\d\d|1000)$/);
    const begun = await probe.post('hello', [['Upload-Complete', '?0']]);
    expect(begun.header('Upload-Limit')).toMatch(/max-age=86\d\d\d$/);
  }),
  row('limits.max_uploads', 'limits: { max_uploads: 1 }', async (probe) => {
    const first = await probe.begin();
    expect((await probe.upload()).status).toBe(503);
    await first.cancel();
    expect((await probe.upload()).status).toBe(200);
  }),
  row('limits.max_spooled', 'limits: { max_spooled: 1000 }', async (probe) => {
    const first = await probe.begin('', [], 996);
    expect((await probe.upload()).status).toBe(507);
    await first.cancel();
    expect((await probe.upload()).status).toBe(200);
  }),
];

const CHECKS: SettingRow[] = [
  row('plain_bodies', 'plain_bodies: refuse', async (probe) => expect((await probe.post()).status).toBe(428)),
  row(
    'protocols',
    'protocols: [rufh]',
    async (probe) => {
      const fields: HeaderLine[] = [
        ['Tus-Resumable', '1.0.0'],
        ['Upload-Length', '5'],
      ];
      expect((await probe.post('', fields)).status).toBe(400);
    },
    seenAtTop('flow/tus.test.ts', 'where tus is not offered a client hears so, and the origin nothing'),
  ),
  ...['authorize.forward_auth', 'authorize.forward_auth.url'].map((setting, at) =>
    row(
      setting,
      ({ service: { url } }) => `authorize: { forward_auth: ${at === 0 ? `"${url}"` : `{ url: "${url}" }`} }`,
      async (probe) => {
        probe.service.answerWith({ status: 403 });
        expect((await probe.get()).status).toBe(403);
      },
      at === 0
        ? seenAtTop('flow/access.test.ts', 'to the principal follows whoever the authorization service says it is')
        : seenAtTop('flow/access.test.ts', 'its refusal is relayed before the body is taken, and nothing is kept'),
    ),
  ),
  row(
    'authorize.forward_auth.timeout',
    ({ service }) => `authorize: { forward_auth: { url: "${service.url}", timeout: 50ms } }`,
    async (probe) => {
      probe.service.answerWith(probe.silence);
      expect((await probe.get()).status).toBe(503);
    },
  ),
  row(
    'authorize.forward_auth.copy_headers',
    ({ service }) => `authorize: { forward_auth: { url: "${service.url}", copy_headers: [X-Team] } }`,
    async (probe) => {
      probe.service.answerWith({ headers: [['X-Team', 'sea']] });
      await probe.get();
      expect(probe.origin.requests[0]!.header('X-Team')).toBe('sea');
    },
    seenAtTop(
      'flow/access.test.ts',
      'is told method, target and headers, and its chosen headers reach the origin in place of the client’s',
    ),
  ),
  row(
    'authorize.forward_auth.principal_header',
    ({ service }) =>
      `authorize: { forward_auth: { url: "${service.url}", principal_header: X-Who } }\nbind_to: principal`,
    async (probe) => {
      probe.service.answerWith({ headers: [['X-Who', 'ann']] });
      const upload = await probe.begin();
      expect((await upload.retrieve()).status).toBe(204);
      probe.service.answerWith({ headers: [['X-Who', 'bob']] });
      expect((await upload.retrieve()).status).toBe(404);
    },
  ),
  row(
    'authorize.scope',
    ({ service }) => `authorize: { forward_auth: "${service.url}", scope: uploads }`,
    async (probe) => {
      probe.service.answerWith({ status: 403 });
      expect([(await probe.get()).status, (await probe.upload()).status]).toEqual([200, 403]);
    },
    seenInRoute(
      'flow/guarded-route.test.ts',
      'with scope: uploads a plain body is not asked for, but says nothing forged',
    ),
  ),
  row(
    'authorize.preflight',
    ({ service }) => `authorize: { forward_auth: "${service.url}", preflight: true }`,
    async (probe) => {
      await probe.upload();
      expect(probe.origin.requests.map((request) => request.header('Expect'))).toEqual(['100-continue', undefined]);
    },
    seenAtTop(
      'flow/access.test.ts',
      'an origin that refuses the head is heard before the body, and its answer relayed',
    ),
  ),
  row(
    'authorize.recheck',
    ({ service }) => `authorize: { forward_auth: "${service.url}", recheck: true }`,
    async (probe) => {
      await probe.upload();
      expect(probe.service.requests.length).toBe(2);
    },
    seenAtTop(
      'flow/access.test.ts',
      'with recheck it is asked again, for the creation’s target, before the upload counts as complete',
    ),
  ),
  row(
    'bind_to',
    'bind_to: [X-Key]',
    async (probe) => {
      const upload = await probe.begin('', [['X-Key', 'mine']]);
      expect((await upload.retrieve()).status).toBe(404);
    },
    seenAtTop('flow/access.test.ts', 'to a header is nobody else’s to see, continue or cancel'),
  ),
  row(
    'headers.underscores',
    'headers: { underscores: pass }',
    async (probe) => {
      await probe.get([['X_Field', 'a']]);
      expect(probe.origin.requests[0]!.header('X_Field')).toBe('a');
    },
    seenInRoute(
      'flow/guarded-route.test.ts',
      'a route of its own may be open to all, and take fields with underscores',
    ),
  ),
  row(
    'headers.original_url',
    'headers: { original_url: trust }',
    async (probe) => {
      await probe.get([['X-Original-URL', '/before']]);
      expect(probe.origin.requests[0]!.header('X-Original-URL')).toBe('/before');
    },
    seenAtTop('flow/guarded-route.test.ts', 'no origin is told of another target%s'),
  ),
];

const PAGES: SettingRow[] = [
  row('cors.allow_origins', 'cors: { allow_origins: ["https://a.example"] }', async (probe) => {
    const allowed = ['https://a.example', 'https://b.example'].map(async (origin) =>
      (await preflight(probe, origin)).header('Access-Control-Allow-Origin'),
    );
    expect(await Promise.all(allowed)).toEqual(['https://a.example', undefined]);
  }),
  row(
    'cors.allow_credentials',
    'cors: { allow_origins: ["https://a.example"], allow_credentials: true }',
    async (probe) => expect((await preflight(probe)).header('Access-Control-Allow-Credentials')).toBe('true'),
  ),
  row('cors.max_age', 'cors: { allow_origins: ["https://a.example"], max_age: 77s }', async (probe) =>
    expect((await preflight(probe)).header('Access-Control-Max-Age')).toBe('77'),
  ),
];

function preflight(probe: SettingProbe, origin = 'https://a.example'): Promise<WireResponse> {
  const headers: HeaderLine[] = [
    ['Origin', origin],
    ['Access-Control-Request-Method', 'POST'],
  ];
  return probe.send({ method: 'OPTIONS', headers });
}

const ROWS = [...LIMITS, ...CHECKS, ...PAGES];

/** Settings that only routes have. */
const OF_ROUTES: readonly RouteRow[] = [
  {
    setting: 'name',
    route: 'match: { path: PATH/** }, name: own-name',
    effect: async (probe) => {
      const { status } = await probe.get();
      expect(status).toBe(200);
      expect(probe.app.log.at(-1)).toMatchObject({ msg: 'request', route: 'own-name' });
    },
  },
  {
    setting: 'match.path',
    route: 'match: { path: PATH/*/in }, plain_bodies: refuse',
    effect: (probe) => areRefused(probe, ['/a/in'], ['/a/b/in', '/in']),
  },
  {
    setting: 'match.ignore_case',
    route: 'match: { path: PATH/case, ignore_case: true }, plain_bodies: refuse',
    effect: (probe) => areRefused(probe, ['/case', '/CASE'], []),
  },
  {
    setting: 'match.methods',
    route: 'match: { path: PATH/**, methods: PUT }, plain_bodies: refuse',
    effect: async (probe) => {
      const body = 'hello';
      expect((await probe.send({ method: 'PUT', body })).status).toBe(428);
      expect((await probe.send({ method: 'POST', body })).status).not.toBe(428);
    },
  },
  {
    setting: 'origin',
    route: 'match: { path: PATH/** }',
    effect: async (probe) => {
      await probe.get();
      expect(probe.origin.requests.length).toBe(1);
    },
  },
  {
    setting: 'resumable',
    route: 'match: { path: PATH/** }, resumable: false',
    effect: async (probe) => {
      await probe.upload();
      expect(probe.origin.requests[0]!.header('Upload-Complete')).toBe('?1');
    },
  },
];

async function areRefused(probe: SettingProbe, refused: string[], passed: string[]): Promise<void> {
  const statusOf = async (path: string): Promise<number> =>
    (await probe.send({ method: 'POST', target: probe.path + path, body: 'hello' })).status;
  for (const path of refused) expect([path, await statusOf(path)]).toEqual([path, 428]);
  for (const path of passed) expect([path, (await statusOf(path)) === 428]).toEqual([path, false]);
}

testAtBothLevels(ROWS, OF_ROUTES);

test('origin', async () => {
  const probe = await SettingProbe.open('/origin');
  probe.app = await startTestApp({ config: `origin: ${probe.origin.url}/base\n` });
  await probe.get();
  expect(probe.origin.requests[0]!.target).toBe('/base/origin/x');
  await probe.close();
  await probe.app.stop();
});

describe('rows', () => {
  test('every setting that a route has, or inherits, has one, and every row a setting', () => {
    const both = ROWS.flatMap(({ setting }) => [setting, `routes.${setting}`]);
    const rows = [...both, 'origin', ...OF_ROUTES.map(({ setting }) => `routes.${setting}`)];
    expect(rows.sort()).toEqual(settingsOf('routes'));
  });

  test('the tests that rows name exist', () => {
    expect(missingTests(ROWS.flatMap(({ seen }) => seen))).toEqual([]);
  });
});
