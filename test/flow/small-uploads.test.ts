import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import { startFakeOrigin, type FakeOrigin, type OriginRequest } from '../support/fake-origin.js';
import { TRANSPORTS, type Transport } from '../support/open-request.js';
import type { RedisServer } from '../support/redis-server.js';
import { startRedis } from '../support/redis-servers.js';
import { appendLines, clientDialect, creationLines, type DialectName } from '../support/resumable-client.js';
import { Stage } from '../support/stage.js';
import type { WireResponse } from '../support/wire-response.js';

// Issue 9: an upload below `min_size` reaches the origin as a large one does, whatever its route makes of uploads.
const KINDS = ['plain', 'gated', 'framed', 'moved', 'renamed', 'rechecked'] as const;
const SIZES = { small: 5, large: 200 } as const;
const VERSIONS: readonly DialectName[] = ['3', '8', 'final'];

const CONFIG = (service: string): string => `
limits: { min_size: 100 }
routes:
  - match: { path: /gated/** }
    delivery: { gate: { command: ["/bin/sh", "-c", "! grep -q VIRUS"] } }
  - match: { path: /framed/** }
    delivery: { framing: multipart }
  - match: { path: /moved/** }
    delivery: { target: "/in{path}" }
  - match: { path: /renamed/** }
    delivery: { method: PUT }
  - match: { path: /rechecked/** }
    authorize: { forward_auth: "${service}", recheck: true }
    plain_bodies: spool
  - match: { path: /** }
`;

describe.each(['embedded', 'redis'] as const)('with the %s store', (kind) => {
  let redis: RedisServer | undefined;
  let service: FakeOrigin;
  let stage: Stage;
  let flows = 0;

  beforeAll(async () => {
    redis = kind === 'redis' ? await startRedis() : undefined;
    service = await startFakeOrigin({ status: 204 });
    const store = redis ? `store: { type: redis, url: "${redis.url}" }\nspool: { shared: true }\n` : '';
    stage = await Stage.open({ config: store + CONFIG(service.url) });
  });
  afterAll(async () => {
    await stage.close();
    await service.close();
    await redis?.stop();
  });

  /** How a client may bring the same bytes. */
  const WAYS = {
    'at once (?1)': (transport: Transport, dialect: DialectName, target: string, body: string) => {
      const headers = creationLines(clientDialect(dialect), { complete: true, length: body.length });
      return stage.send(transport, { method: 'POST', target, headers, body });
    },
    'later (?0)': async (transport: Transport, dialect: DialectName, target: string, body: string) => {
      const version = clientDialect(dialect);
      const headers = creationLines(version, { complete: false, length: body.length });
      const created = await stage.send(transport, { method: 'POST', target, headers, body: '' });
      expect(created.status).toBe(201);
      const append = appendLines(version, { offset: 0, complete: true });
      const { pathname } = new URL(created.header('Location')!);
      return stage.send(transport, { method: 'PATCH', target: pathname, headers: append, body });
    },
    'as an ordinary body': (transport: Transport, _: DialectName, target: string, body: string) =>
      stage.send(transport, { method: 'POST', target, body }),
  } as const;

  /** What the origin got of the request, but for what differs from upload to upload. */
  function shapeOf(request: OriginRequest, name: string): readonly unknown[] {
    const { method, target, body } = request;
    const type = request.header('Content-Type')?.replace(/boundary=.*/, 'boundary');
    const content = body
      .toString()
      .replace(/x+/, 'x')
      .replaceAll(/--[^\r\n]+/g, '--boundary');
    return [method, target.replace(name, 'name'), type, content];
  }

  const sent = (path: string): OriginRequest[] => stage.origin.requests.filter(({ target }) => target.includes(path));

  const cases = KINDS.flatMap((shape) =>
    (Object.keys(WAYS) as (keyof typeof WAYS)[]).map((way) => [shape, way] as const),
  );

  describe.each(TRANSPORTS)('over %s', (transport) => {
    test.each(cases)('%s, %s: small and large reach the origin alike', async (shape, way) => {
      // What versions say is the same over both, and to both stores.
      const isFirst = kind === 'embedded' && transport === 'HTTP/1.1' && way !== 'as an ordinary body';
      for (const dialect of isFirst ? VERSIONS : (['8'] as const)) {
        const shapes: unknown[] = [];
        for (const size of Object.values(SIZES)) {
          const name = `name-${flows++}-`;
          const asked = service.requests.length;
          const response: WireResponse = await WAYS[way](transport, dialect, `/${shape}/${name}`, 'x'.repeat(size));
          expect([response.status, response.body.toString()]).toEqual([200, 'ok']);
          expect(service.requests.length > asked).toBe(shape === 'rechecked');
          expect(sent(name)).toHaveLength(1);
          shapes.push(shapeOf(sent(name)[0]!, name));
        }
        expect(shapes[0]).toEqual(shapes[1]);
      }
    });

    test.each(Object.keys(WAYS) as (keyof typeof WAYS)[])('the gate sees a small body %s', async (way) => {
      const name = `virus-${flows++}-`;
      const response = await WAYS[way](transport, '8', `/gated/${name}`, 'VIRUS');
      expect([response.status, sent(name)]).toEqual([422, []]);
    });
  });

  // Redis, beside what `plain-bodies` shows on one machine.
  const CLIENTS: readonly (readonly [string, readonly HeaderLine[]])[] = [
    [
      'with a tus creation',
      [
        ['Tus-Resumable', '1.0.0'],
        ['Upload-Length', '5'],
      ],
    ],
    [
      'of a version nobody knows',
      [
        ['Upload-Draft-Interop-Version', '99'],
        ['Upload-Complete', '?1'],
      ],
    ],
  ];
  test.each(CLIENTS)('an ordinary body %s goes through the gate all the same', async (_, headers) => {
    const name = `ordinary-${flows++}-`;
    const ask = { method: 'POST', target: `/gated/${name}`, headers };
    expect((await stage.send('HTTP/1.1', { ...ask, body: 'VIRUS' })).status).toBe(422);
    expect(sent(name)).toEqual([]);
    expect((await stage.send('HTTP/1.1', { ...ask, body: 'hello' })).status).toBe(200);
    expect(sent(name).map(({ body }) => body.toString())).toEqual(['hello']);
  });
});
