import { expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import { connect, exchangeOver, requestOnce, TRANSPORTS } from '../support/client.js';
import { expectTus, FILE, STREAM, TUS } from '../support/tus-client.js';
import { LENGTH, type Section, server, testDemands, TusServer } from '../support/tus-demands.js';

// Every demand of tus 1.0.0 (2016-03-25), Core Protocol. Those of the extensions are in tus-musts-extensions.test.ts.

const on = new TusServer();

/** The statuses of creations and appends with these values of an integer field. */
async function statusesOf(name: 'Upload-Length' | 'Upload-Offset', values: readonly string[]): Promise<number[]> {
  const statuses: number[] = [];
  for (const value of values) {
    const response =
      name === 'Upload-Length'
        ? await on.tus.send('POST', '/files', [[name, value]])
        : await on.tus.send('PATCH', await on.begun(10), [STREAM, [name, value]], 'bytes');
    statuses.push(response.status);
  }
  return statuses;
}

const NO_INTEGERS = ['-1', '+5', '5.0', '1e3', '0x5', '5 5', '5, 5', '', 'five', '٣', '1000000000000000'];

const PART: HeaderLine = ['Upload-Concat', 'partial'];

/** Creates a part of an upload. */
async function part(from: number, to: number): Promise<string> {
  const target = await on.tus.create([PART, ['Upload-Length', String(to - from)]]);
  expectTus(await on.tus.patch(target, 0, FILE.subarray(from, to)), 204);
  return target;
}

const CORE: readonly Section[] = [
  {
    name: 'Core Protocol',
    musts: 1,
    demands: [
      server('All Clients and Servers MUST implement the core protocol.', async () => {
        const target = await on.begun();
        expect(await on.told(target, 'Upload-Offset')).toEqual(['1000']);
        expectTus(await on.tus.patch(target, 1000, FILE.subarray(1000)), 201);
        expect((await on.options()).header('Tus-Version')).toBe('1.0.0');
      }),
    ],
  },
  {
    name: 'Headers: Upload-Offset',
    musts: 1,
    demands: [
      server('The value MUST be a non-negative integer.', async () => {
        expect(new Set(await statusesOf('Upload-Offset', NO_INTEGERS))).toEqual(new Set([400]));
        expect(await on.told(await on.begun(0), 'Upload-Offset')).toEqual(['0']);
      }),
    ],
  },
  {
    name: 'Headers: Upload-Length',
    musts: 1,
    demands: [
      server('The value MUST be a non-negative integer.', async () => {
        expect(new Set(await statusesOf('Upload-Length', NO_INTEGERS))).toEqual(new Set([400]));
        expect(await on.told(await on.begun(0), 'Upload-Length')).toEqual(['3000']);
      }),
    ],
  },
  {
    name: 'Headers: Tus-Version',
    musts: 2,
    demands: [
      server('Tus-Version MUST be a comma-separated list of protocol versions.', async () => {
        expect((await on.options()).header('Tus-Version')).toMatch(/^\d+\.\d+\.\d+(?:,\d+\.\d+\.\d+)*$/);
      }),
      server('The list MUST be sorted by preference.', async () => {
        // With one version any order is that of preference.
        expect((await on.options()).header('Tus-Version')!.split(',')).toEqual(['1.0.0']);
      }),
    ],
  },
  {
    name: 'Headers: Tus-Resumable',
    musts: 5,
    demands: [
      server('It MUST be included in every request and response, except for OPTIONS.', async () => {
        const target = await on.begun();
        for (const method of ['PATCH', 'DELETE', 'POST', 'PUT']) {
          const headers: HeaderLine[] = [STREAM, ['Upload-Offset', '1000']];
          expectTus(await requestOnce(on.app.url, { method, target, headers }), 412);
        }
        const responses = [
          await on.tus.send('POST', '/files', []),
          await on.tus.send('HEAD', target),
          await on.tus.send('GET', target),
          await on.tus.send('PUT', target),
          await on.tus.patch(target, 5, FILE),
          await on.tus.patch(target, 1000, FILE.subarray(1000)),
          await on.tus.send('HEAD', `/.uploads/${'x'.repeat(32)}`),
          await on.tus.send('PATCH', '/files', [STREAM, ['Upload-Offset', '0']], 'x'),
          await on.tus.send('DELETE', target),
        ];
        expect(responses.map(({ status }) => status)).toEqual([400, 200, 200, 405, 409, 201, 404, 404, 204]);
        expect(new Set(responses.map((response) => response.header('Tus-Resumable')))).toEqual(new Set(['1.0.0']));
      }),
      server('The value MUST be the version of the protocol.', async () => {
        for (const version of ['1.0', '1.0.1', '2.0.0', '0.2.2', 'v1.0.0', '1.0.0, 1.0.0', '']) {
          const headers: HeaderLine[] = [['Tus-Resumable', version], LENGTH];
          expectTus(await requestOnce(on.app.url, { method: 'POST', target: '/files', headers }), 412);
        }
      }),
      server('To another version the Server MUST respond with 412, and it MUST include Tus-Version.', async () => {
        for (const method of ['HEAD', 'GET', 'PATCH', 'DELETE']) {
          const headers: HeaderLine[] = [['Tus-Resumable', '0.2.2'], STREAM, ['Upload-Offset', '1000']];
          const response = await requestOnce(on.app.url, { method, target: await on.begun(), headers });
          expectTus(response, 412);
          expect(response.header('Tus-Version')).toBe('1.0.0');
        }
      }),
      server('In addition, the Server MUST NOT process the request.', async () => {
        const target = await on.begun();
        const other: HeaderLine[] = [['Tus-Resumable', '0.2.2'], STREAM, ['Upload-Offset', '1000']];
        await requestOnce(on.app.url, { method: 'PATCH', target, headers: other, body: FILE.subarray(1000) });
        await requestOnce(on.app.url, { method: 'DELETE', target, headers: other });
        await requestOnce(on.app.url, { method: 'POST', target: '/files', headers: [...other, LENGTH] });
        expect(await on.told(target, 'Upload-Offset')).toEqual(['1000']);
        expect(on.origin.requests).toEqual([]);
      }),
    ],
  },
  {
    name: 'Headers: Tus-Extension',
    musts: 2,
    demands: [
      server('Tus-Extension MUST be a comma-separated list of the extensions.', async () => {
        expect((await on.options()).header('Tus-Extension')).toMatch(/^[a-z]+(?:-[a-z]+)*(?:,[a-z]+(?:-[a-z]+)*)*$/);
      }),
      server('If no extensions are supported, it MUST be omitted.', async () => {
        // Where tus is offered, so are its extensions.
        const response = await on.options('/draft/f');
        expect([response.header('Tus-Version'), response.header('Tus-Extension')]).toEqual([undefined, undefined]);
      }),
    ],
  },
  {
    name: 'Headers: Tus-Max-Size',
    musts: 1,
    demands: [
      server('Tus-Max-Size MUST be a non-negative integer.', async () => {
        expect((await on.options()).header('Tus-Max-Size')).toBe('1048576');
      }),
    ],
  },
  {
    name: 'Headers: X-HTTP-Method-Override',
    musts: 3,
    demands: [
      server('It MUST be a string which MUST be interpreted as the method.', async () => {
        const target = await on.begun();
        const override = (method: string): HeaderLine => ['X-HTTP-Method-Override', method];
        expectTus(await on.tus.send('POST', target, [override('HEAD')]), 200);
        const fields: HeaderLine[] = [override('PATCH'), STREAM, ['Upload-Offset', '1000']];
        expectTus(await on.tus.send('POST', target, fields, FILE.subarray(1000, 2000)), 204);
        expectTus(await on.tus.send('POST', target, [override('PUT')]), 405);
        expectTus(await on.tus.send('POST', target, [override('DELETE')]), 204);
        expectTus(await on.tus.send('HEAD', target), 404);
      }),
      server('The actual method of the request MUST be ignored.', async () => {
        const target = await on.begun();
        const fields: HeaderLine[] = [['X-HTTP-Method-Override', 'PATCH'], STREAM];
        for (const [at, method] of ['GET', 'PUT', 'DELETE', 'HEAD', 'PROPFIND'].entries()) {
          const offset = 1000 + 100 * at;
          const offsetLine: HeaderLine = ['Upload-Offset', String(offset)];
          const response = await on.tus.send(
            method,
            target,
            [...fields, offsetLine],
            FILE.subarray(offset, offset + 100),
          );
          expect([method, response.status]).toEqual([method, 204]);
        }
        expect(await on.told(target, 'Upload-Offset')).toEqual(['1500']);
      }),
    ],
  },
  {
    name: 'Requests: HEAD',
    musts: 3,
    demands: [
      server('The Server MUST always include Upload-Offset, even if it is 0 or the upload is completed.', async () => {
        const target = await on.begun(0);
        expect(await on.told(target, 'Upload-Offset')).toEqual(['0']);
        await on.tus.patch(target, 0, FILE);
        expect(await on.told(target, 'Upload-Offset')).toEqual(['3000']);
        expect(await on.told(await part(0, 1000), 'Upload-Offset')).toEqual(['1000']);
      }),
      server('If the size is known, it MUST include Upload-Length.', async () => {
        expect(await on.told(await on.begun(), 'Upload-Length')).toEqual(['3000']);
      }),
      server('It MUST prevent caching by Cache-Control: no-store.', async () => {
        const target = await on.begun();
        expect(await on.told(target, 'Cache-Control')).toEqual(['no-store']);
        await on.tus.patch(target, 1000, FILE.subarray(1000));
        expect(await on.told(target, 'Cache-Control')).toEqual(['no-store']);
        const unknown = await on.tus.send('HEAD', `/.uploads/${'x'.repeat(32)}`);
        expect(unknown.header('Cache-Control')).toBe('no-store');
      }),
    ],
  },
  {
    name: 'Requests: PATCH',
    musts: 6,
    demands: [
      server('All PATCH requests MUST use application/offset+octet-stream, otherwise 415.', async () => {
        const offset: HeaderLine = ['Upload-Offset', '1000'];
        expectTus(await on.tus.send('PATCH', await on.begun(), [offset], 'bytes'), 415);
        for (const type of ['text/plain', 'application/partial-upload', 'application/octet-stream', ''])
          expectTus(await on.tus.send('PATCH', await on.begun(), [['Content-Type', type], offset], 'bytes'), 415);
      }),
      server('Upload-Offset MUST be equal to the current offset.', async () => {
        for (const offset of [0, 999, 1001, 3000]) expectTus(await on.tus.patch(await on.begun(), offset, FILE), 409);
      }),
      server('If not, the Server MUST respond with 409 without modifying the upload.', async () => {
        const target = await on.begun();
        expectTus(await on.tus.patch(target, 0, FILE), 409);
        expect(await on.told(target, 'Upload-Offset', 'Upload-Length')).toEqual(['1000', '3000']);
        expectTus(await on.tus.patch(target, 1000, FILE.subarray(1000)), 201);
        expect(on.origin.requests.map(({ body }) => body.equals(FILE))).toEqual([true]);
      }),
      server('The Server MUST acknowledge successful requests with 204.', async () => {
        expectTus(await on.tus.patch(await on.begun(), 1000, FILE.subarray(1000, 2000)), 204);
        // The last request gets what the origin answers (docs/decisions/0033), which is 204 where that is nothing.
        on.origin.answerWith({ status: 201 });
        expectTus(await on.tus.patch(await on.begun(), 1000, FILE.subarray(1000)), 204);
        expectTus(await on.tus.patch(await on.begun(), 1000, FILE.subarray(1000), [['Prefer', 'respond-async']]), 204);
      }),
      server('It MUST include Upload-Offset with the new offset.', async () => {
        const target = await on.begun();
        const offsets = [
          await on.tus.patch(target, 1000, FILE.subarray(1000, 2000)),
          await on.tus.patch(target, 2000, FILE.subarray(2000)),
        ];
        expect(offsets.map((response) => response.header('Upload-Offset'))).toEqual(['2000', '3000']);
      }),
      server('The new offset MUST be the sum of the offset before and the bytes that were stored.', async () => {
        const target = await on.begun(0);
        for (const [from, to] of [
          [0, 1],
          [1, 1],
          [1, 700],
          [700, 2999],
        ] as const) {
          const response = await on.tus.patch(target, from, FILE.subarray(from, to));
          expect(response.header('Upload-Offset')).toBe(String(to));
        }
        // Of a request that was cut, what arrived.
        const other = await on.begun(0);
        const raw = await connect(on.app.url);
        await raw.sendHead('PATCH', other, [TUS, STREAM, ['Upload-Offset', '0'], ['Content-Length', '3000']]);
        await raw.send(FILE.subarray(0, 1234));
        raw.end();
        await raw.closed;
        const offset = await on.tus.offsetOf(other);
        expectTus(await on.tus.patch(other, offset, FILE.subarray(offset)), 201);
        expect(on.origin.requests.map(({ body }) => body.equals(FILE))).toEqual([true]);
      }),
    ],
  },
  {
    name: 'Requests: OPTIONS',
    musts: 2,
    demands: [
      server('A successful response, 204 or 200, MUST contain Tus-Version.', async () => {
        const target = await on.begun();
        for (const status of [200, 204, 404, 501]) {
          on.origin.answerWith({ status });
          const responses = [await on.options('/files'), await on.options(target)];
          expect(responses.map((response) => response.status)).toEqual([200, 204]);
          expect(responses.map((response) => response.header('Tus-Version'))).toEqual(['1.0.0', '1.0.0']);
        }
      }),
      server('The Server MUST ignore Tus-Resumable.', async () => {
        for (const version of ['1.0.0', '0.2.2', 'x']) {
          const fields: HeaderLine[] = [['Tus-Resumable', version]];
          const responses = [await on.options('/files', fields), await on.options(await on.begun(), fields)];
          expect(responses.map((response) => response.header('Tus-Version'))).toEqual(['1.0.0', '1.0.0']);
        }
      }),
    ],
  },
];

testDemands(CORE, 27);

test.each(TRANSPORTS)('the core protocol holds over %s', async (transport) => {
  const target = await on.begun(0);
  const headers: HeaderLine[] = [TUS, STREAM, ['Upload-Offset', '0']];
  expectTus(
    await exchangeOver(transport, on.app.url, { method: 'PATCH', target, headers, body: FILE.subarray(0, 10) }),
    204,
  );
  const head = await exchangeOver(transport, on.app.url, { method: 'HEAD', target, headers: [TUS] });
  expect([head.status, head.header('Upload-Offset'), head.header('Cache-Control')]).toEqual([200, '10', 'no-store']);
});
