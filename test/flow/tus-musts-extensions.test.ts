import { expect } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import { requestOnce } from '../support/client.js';
import { checksum, expectTus, FILE, STREAM } from '../support/tus-client.js';
import { client, LENGTH, type Section, server, testDemands, TusServer } from '../support/tus-demands.js';
import type { WireResponse } from '../support/wire.js';

// Every demand of tus 1.0.0 (2016-03-25), Protocol Extensions. Those of the core are in tus-musts-core.test.ts.

const on = new TusServer();

const PART: HeaderLine = ['Upload-Concat', 'partial'];

/** Creates a part of an upload. */
async function part(from: number, to: number, fields: readonly HeaderLine[] = []): Promise<string> {
  const target = await on.tus.create([PART, ['Upload-Length', String(to - from)], ...fields]);
  expectTus(await on.tus.patch(target, 0, FILE.subarray(from, to)), 204);
  return target;
}

function join(parts: readonly string[], fields: readonly HeaderLine[] = []): Promise<WireResponse> {
  return on.tus.send('POST', '/joined', [['Upload-Concat', `final;${parts.join(' ')}`], ...fields]);
}

async function joined(parts: readonly string[], fields: readonly HeaderLine[] = []): Promise<string> {
  const response = await join(parts, fields);
  expectTus(response, 201);
  return new URL(response.header('Location')!).pathname;
}

/** Every kind of response to PATCH, except to one that ends its upload well: how it comes about. */
const UNFINISHED: Record<string, () => Promise<WireResponse>> = {
  'more is to come': async () => on.tus.patch(await on.begun(), 1000, FILE.subarray(1000, 2000)),
  'another offset': async () => on.tus.patch(await on.begun(), 999, FILE.subarray(999)),
  'no offset': async () => on.tus.send('PATCH', await on.begun(), [STREAM], 'bytes'),
  'another type': async () => on.tus.send('PATCH', await on.begun(), [['Upload-Offset', '1000']], 'bytes'),
  'another version': async () =>
    requestOnce(on.app.url, {
      method: 'PATCH',
      target: await on.begun(),
      headers: [['Tus-Resumable', '0.2.2'], STREAM],
    }),
  'another length': async () =>
    on.tus.patch(await on.begun(), 1000, FILE.subarray(1000, 2000), [['Upload-Length', '9']]),
  'too many bytes': async () => on.tus.patch(await on.begun(), 1000, FILE),
  'a wrong checksum': async () =>
    on.tus.patch(await on.begun(), 1000, FILE.subarray(1000, 2000), [['Upload-Checksum', checksum('sha1', 'x')]]),
  'an unknown checksum': async () =>
    on.tus.patch(await on.begun(), 1000, FILE.subarray(1000, 2000), [['Upload-Checksum', 'crc32 AAAA']]),
  'an origin that refuses': async () => {
    on.origin.answerWith({ status: 422, body: 'no' });
    return on.tus.patch(await on.begun(), 1000, FILE.subarray(1000));
  },
  'an origin that wants other credentials': async () => {
    on.origin.answerWith({ status: 401, body: 'who?' });
    return on.tus.patch(await on.begun(), 1000, FILE.subarray(1000));
  },
  'an origin without an answer': async () => {
    on.origin.answerWith({ hangUp: true });
    return on.tus.patch(await on.begun(), 1000, FILE.subarray(1000));
  },
};

/** RFC 9110 §5.6.7. */
const IMF_FIXDATE = /^(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d{2} [A-Z][a-z]{2} \d{4} \d{2}:\d{2}:\d{2} GMT$/;

function expectExpires(response: WireResponse): void {
  const expires = response.header('Upload-Expires')!;
  expect(expires).toMatch(IMF_FIXDATE);
  expect(Date.parse(expires)).toBeGreaterThan(Date.now());
}

const SENDS_IT = 'the client sends it';

/** The name that the origin gets of a file with this metadata. */
async function nameFrom(metadata: string): Promise<string> {
  on.origin.requests.length = 0;
  expectTus(
    await on.tus.send('POST', '/files', [
      ['Upload-Length', '0'],
      ['Upload-Metadata', metadata],
    ]),
    201,
  );
  return on.origin.requests[0]!.target.replace('/files?name=', '');
}

const EXTENSIONS: readonly Section[] = [
  {
    name: 'Creation',
    musts: 1,
    demands: [
      server('If the Server supports it, it MUST add creation to Tus-Extension.', async () => {
        expect(await on.extensions()).toContain('creation');
      }),
    ],
  },
  {
    name: 'Creation: Upload-Defer-Length',
    musts: 2,
    demands: [
      server('Its value MUST be 1.', async () => {
        for (const value of ['0', '2', 'true', '01', '1, 1', ''])
          expectTus(await on.tus.send('POST', '/files', [['Upload-Defer-Length', value]]), 400);
        expect(await on.told(await on.begun(10, [['Upload-Defer-Length', '1']]), 'Upload-Defer-Length')).toEqual(['1']);
      }),
      server('If the length is not deferred, it MUST be omitted.', async () => {
        expectTus(await on.tus.send('POST', '/files', [LENGTH, ['Upload-Defer-Length', '1']]), 400);
        expect(await on.told(await on.begun(), 'Upload-Defer-Length')).toEqual([undefined]);
      }),
    ],
  },
  {
    name: 'Creation: Upload-Metadata',
    musts: 6,
    demands: [
      server('It MUST consist of one or more comma-separated pairs of a key and a value.', async () => {
        expect(await nameFrom('is_confidential,filename YS5wbmc=,album Yg==')).toBe('a.png');
        expect(await nameFrom(',, filename YS5wbmc= ,')).toBe('a.png');
      }),
      server('The key and value MUST be separated by a space.', async () => {
        expect(await nameFrom('filename=YS5wbmc=')).toBe('upload');
        expect(await nameFrom('filename YS5wbmc= more')).toBe('upload');
      }),
      server('The key MUST NOT contain spaces and commas and MUST NOT be empty.', async () => {
        expect(await nameFrom('file name YS5wbmc=')).toBe('upload');
        expect(await nameFrom(' YS5wbmc=')).toBe('upload');
      }),
      server('The value MUST be Base64 encoded.', async () => {
        expect(await nameFrom('filename a.png')).toBe('upload');
        expect(await nameFrom('filename YS5wbmc')).toBe('a.png');
      }),
      server('All keys MUST be unique.', async () => {
        expect(await nameFrom('filename YS5wbmc=,filename Yi5wbmc=')).toBe('a.png');
      }),
    ],
  },
  {
    name: 'Creation: POST',
    musts: 11,
    demands: [
      client(
        'The Client MUST send a POST request to create an upload.',
        `${SENDS_IT}; other requests go to the origin`,
      ),
      server('The request MUST include Upload-Length or Upload-Defer-Length: 1.', async () => {
        expectTus(await on.tus.send('POST', '/files'), 400);
        expectTus(await on.tus.send('POST', '/files', [LENGTH]), 201);
        expectTus(await on.tus.send('POST', '/files', [['Upload-Defer-Length', '1']]), 201);
      }),
      client(
        'The Client MUST set Upload-Length in the next PATCH once the length is known.',
        'only the client knows when; an upload whose length never comes expires',
      ),
      server('Once set the length MUST NOT be changed.', async () => {
        const target = await on.begun(10, [['Upload-Defer-Length', '1']]);
        expectTus(await on.tus.patch(target, 10, FILE.subarray(10, 20), [LENGTH]), 204);
        expectTus(await on.tus.patch(target, 20, FILE.subarray(20, 30), [['Upload-Length', '2999']]), 400);
        expect(await on.told(target, 'Upload-Length', 'Upload-Offset')).toEqual(['3000', '20']);
      }),
      server(
        'While the length is not known, the Server MUST set Upload-Defer-Length: 1 in responses to HEAD.',
        async () => {
          const target = await on.begun(10, [['Upload-Defer-Length', '1']]);
          const names = ['Upload-Defer-Length', 'Upload-Length'];
          expect(await on.told(target, ...names)).toEqual(['1', undefined]);
          await on.tus.patch(target, 10, FILE.subarray(10, 20), [LENGTH]);
          expect(await on.told(target, ...names)).toEqual([undefined, '3000']);
        },
      ),
      server('If the Server supports deferring length, it MUST add creation-defer-length.', async () => {
        expect(await on.extensions()).toContain('creation-defer-length');
      }),
      server('Responses to HEAD MUST include Upload-Metadata as the Client specified it.', async () => {
        for (const value of ['filename YS5wbmc=,is_confidential', 'b Yg==, a', 'filename no base64'])
          expect(await on.told(await on.begun(10, [LENGTH, ['Upload-Metadata', value]]), 'Upload-Metadata')).toEqual([
            value,
          ]);
      }),
      server('If the length exceeds the maximum, the Server MUST respond with 413.', async () => {
        expectTus(await on.tus.send('POST', '/files', [['Upload-Length', '1048577']]), 413);
        const target = await on.begun(10, [['Upload-Defer-Length', '1']]);
        expectTus(await on.tus.patch(target, 10, FILE, [['Upload-Length', '1048577']]), 413);
      }),
      server('The Server MUST acknowledge a successful creation with 201.', async () => {
        expectTus(await on.tus.send('POST', '/files', [LENGTH]), 201);
        for (const status of [200, 201, 204, 303]) {
          on.origin.answerWith({ status });
          expectTus(await on.tus.send('POST', '/files', [['Upload-Length', '0']]), 201);
          expectTus(await on.tus.send('POST', '/files', [STREAM, LENGTH], FILE), 201);
        }
      }),
      server('The Server MUST set Location to the URL of the upload.', async () => {
        on.origin.answerWith({ status: 201, headers: [['Location', '/elsewhere']] });
        for (const fields of [[LENGTH], [['Upload-Length', '0']], [['Upload-Defer-Length', '1']]] as HeaderLine[][]) {
          const created = await on.tus.send('POST', '/files', fields);
          expect(created.header('Location')).toMatch(/^http:\/\/127\.0\.0\.1:\d+\/\.uploads\/[\w-]{32}$/);
          expectTus(await on.tus.send('HEAD', new URL(created.header('Location')!).pathname), 200);
        }
      }),
      client('The Client MUST perform the actual upload using the core protocol.', SENDS_IT),
    ],
  },
  {
    name: 'Creation With Upload',
    musts: 5,
    demands: [
      server('If the Server supports it, it MUST advertise creation-with-upload.', async () => {
        expect(await on.extensions()).toContain('creation-with-upload');
      }),
      server('Without Creation, it MUST NOT offer Creation With Upload.', async () => {
        expect(await on.extensions()).toEqual(expect.arrayContaining(['creation', 'creation-with-upload']));
        expect(await on.extensions('/draft/f')).toEqual(['']);
      }),
      server('The Client MUST include Content-Type: application/offset+octet-stream.', async () => {
        for (const fields of [[], [['Content-Type', 'image/png']]] as HeaderLine[][])
          expectTus(await on.tus.send('POST', '/files', [LENGTH, ...fields], FILE), 415);
      }),
      server(
        'The Server MUST include Upload-Offset in the response, and MUST set it to the offset after the bytes.',
        async () => {
          for (const bytes of [0, 1, 2999, 3000]) {
            const created = await on.tus.send('POST', '/files', [STREAM, LENGTH], FILE.subarray(0, bytes));
            expectTus(created, 201);
            expect(created.header('Upload-Offset')).toBe(String(bytes));
          }
        },
      ),
    ],
  },
  {
    name: 'Expiration',
    musts: 1,
    demands: [
      server('The Server MUST add expiration to Tus-Extension.', async () => {
        expect(await on.extensions()).toContain('expiration');
      }),
    ],
  },
  {
    name: 'Expiration: Upload-Expires',
    musts: 3,
    demands: [
      server('It MUST be included in every PATCH response if the upload is going to expire.', async () => {
        for (const [what, send] of Object.entries(UNFINISHED)) {
          on.origin.answerWith({ status: 201 });
          const response = await send();
          expect([what, response.header('Upload-Expires')]).toEqual([what, expect.stringMatching(IMF_FIXDATE)]);
        }
        // Nothing is left to expire for its client.
        on.origin.answerWith({ status: 201 });
        const last = await on.tus.patch(await on.begun(), 1000, FILE.subarray(1000));
        expect(last.header('Upload-Expires')).toBeUndefined();
      }),
      server('If it is known at the creation, it MUST be included in the response to POST.', async () => {
        expectExpires(await on.tus.send('POST', '/files', [LENGTH]));
        expectExpires(await on.tus.send('POST', '/files', [['Upload-Defer-Length', '1']]));
        expectExpires(await on.tus.send('POST', '/files', [STREAM, LENGTH], FILE.subarray(0, 10)));
        on.origin.answerWith({ status: 422 });
        expectExpires(await on.tus.send('POST', '/files', [STREAM, LENGTH], FILE));
      }),
      server('The value MUST be in the datetime format of RFC 9110.', async () => {
        expectExpires(await on.tus.patch(await on.begun(), 1000, FILE.subarray(1000, 2000)));
        expectExpires(await on.tus.send('HEAD', await on.begun()));
      }),
    ],
  },
  {
    name: 'Checksum',
    musts: 8,
    demands: [
      server('If supported, the Server MUST add checksum to Tus-Extension.', async () => {
        expect(await on.extensions()).toContain('checksum');
      }),
      server('Once the request has been received, the Server MUST verify the chunk.', async () => {
        const sum = (bytes: Uint8Array): HeaderLine[] => [['Upload-Checksum', checksum('sha1', bytes)]];
        const target = await on.begun();
        expectTus(await on.tus.patch(target, 1000, FILE.subarray(1000, 2000), sum(FILE)), 460);
        expectTus(await on.tus.patch(target, 1000, FILE.subarray(1000, 2000), sum(FILE.subarray(1000, 2000))), 204);
        expectTus(await on.tus.patch(target, 2000, FILE.subarray(2000), sum(FILE)), 460);
        expectTus(await on.tus.patch(target, 2000, FILE.subarray(2000), sum(FILE.subarray(2000))), 201);
      }),
      server('Else the chunk MUST be discarded, and the upload and its offset MUST NOT be updated.', async () => {
        for (const value of ['crc32 AAAA', checksum('sha1', 'x')]) {
          const target = await on.begun(10, [['Upload-Defer-Length', '1']]);
          const fields: HeaderLine[] = [['Upload-Checksum', value], LENGTH];
          expect([400, 460]).toContain((await on.tus.patch(target, 10, FILE.subarray(10), fields)).status);
          const names = ['Upload-Offset', 'Upload-Defer-Length', 'Upload-Length'];
          expect(await on.told(target, ...names)).toEqual(['10', '1', undefined]);
          expectTus(await on.tus.patch(target, 10, FILE.subarray(10), [LENGTH]), 201);
        }
        expect(on.origin.requests.map(({ body }) => body.equals(FILE))).toEqual([true, true]);
      }),
      server('The Server MUST support at least SHA1, as sha1.', async () => {
        const bytes = FILE.subarray(1000, 2000);
        expectTus(
          await on.tus.patch(await on.begun(), 1000, bytes, [['Upload-Checksum', checksum('sha1', bytes)]]),
          204,
        );
      }),
      server('The names of the algorithms MUST only consist of ASCII characters without uppercase.', async () => {
        expect((await on.options()).header('Tus-Checksum-Algorithm')).toMatch(/^[!-@[-~]+$/);
        const bytes = FILE.subarray(1000, 2000);
        const upper = checksum('sha1', bytes).replace('sha1', 'SHA1');
        expectTus(await on.tus.patch(await on.begun(), 1000, bytes, [['Upload-Checksum', upper]]), 400);
      }),
      server('Tus-Checksum-Algorithm MUST be included in the response to OPTIONS.', async () => {
        expect((await on.options()).header('Tus-Checksum-Algorithm')).toContain('sha1');
      }),
      server('If the Server can handle trailers, this MUST be announced by checksum-trailer.', async () => {
        // They are in tus-extensions.test.ts.
        expect(await on.extensions()).toContain('checksum-trailer');
      }),
    ],
  },
  {
    name: 'Checksum: Tus-Checksum-Algorithm',
    musts: 1,
    demands: [
      server('It MUST be a comma-separated list of the algorithms.', async () => {
        const names = (await on.options()).header('Tus-Checksum-Algorithm')!.split(',');
        const bytes = FILE.subarray(1000, 2000);
        for (const name of names)
          expectTus(
            await on.tus.patch(await on.begun(), 1000, bytes, [['Upload-Checksum', checksum(name, bytes)]]),
            204,
          );
      }),
    ],
  },
  {
    name: 'Checksum: Upload-Checksum',
    musts: 1,
    demands: [
      server('It MUST consist of the algorithm and the Base64 checksum, separated by a space.', async () => {
        const bytes = FILE.subarray(1000, 2000);
        const right = checksum('sha1', bytes);
        const values = [
          right.replace(' ', '  '),
          right.replace(' ', ','),
          `${right} x`,
          right.slice(5),
          'sha1',
          'sha1 !',
        ];
        for (const value of values)
          expectTus(await on.tus.patch(await on.begun(), 1000, bytes, [['Upload-Checksum', value]]), 400);
      }),
    ],
  },
  {
    name: 'Termination',
    musts: 1,
    demands: [
      server('If supported, it MUST be announced by termination.', async () => {
        expect(await on.extensions()).toContain('termination');
      }),
    ],
  },
  {
    name: 'Termination: DELETE',
    musts: 1,
    demands: [
      server('For an existing upload the Server MUST respond with 204.', async () => {
        const completed = await on.begun();
        expectTus(await on.tus.patch(completed, 1000, FILE.subarray(1000)), 201);
        for (const target of [await on.begun(0), await on.begun(), completed, await part(0, 10)]) {
          expectTus(await on.tus.send('DELETE', target), 204);
          expectTus(await on.tus.send('HEAD', target), 404);
        }
      }),
    ],
  },
  {
    name: 'Concatenation',
    musts: 15,
    demands: [
      server('If supported, the Server MUST add concatenation to Tus-Extension.', async () => {
        expect(await on.extensions()).toContain('concatenation');
      }),
      server('The length of the final upload MUST be the sum of the lengths of the parts.', async () => {
        const target = await joined([await part(0, 700), await part(700, 1800)]);
        expect(await on.told(target, 'Upload-Length')).toEqual(['1800']);
      }),
      client(
        'The Client MUST add Upload-Concat to the creation.',
        `${SENDS_IT}; without it, the upload is an ordinary one`,
      ),
      server('The value MUST be final, a semicolon and the URLs, separated by spaces.', async () => {
        const one = await part(0, 10);
        for (const value of [
          'final',
          'final;',
          `final ${one}`,
          `final,${one}`,
          `Final;${one}`,
          `x;${one}`,
          `final;${one},${one}`,
        ])
          expectTus(await on.tus.send('POST', '/joined', [['Upload-Concat', value]]), 400);
      }),
      server('The parts MUST be concatenated in the order of the list.', async () => {
        await joined([await part(1000, 3000), await part(0, 1000)]);
        const [request] = await on.origin.waitForRequests(1);
        expect(request!.body.equals(Buffer.concat([FILE.subarray(1000), FILE.subarray(0, 1000)]))).toBe(true);
      }),
      server('The Client MUST NOT include Upload-Length in the final creation.', async () => {
        expectTus(await join([await part(0, 10)], [['Upload-Length', '10']]), 400);
      }),
      server('Joining unfinished parts MUST be announced by concatenation-unfinished.', async () => {
        expect(await on.extensions()).not.toContain('concatenation-unfinished');
        expectTus(await join([await on.tus.create([PART, ['Upload-Length', '10']])]), 400);
      }),
      server('The metadata of the parts SHALL NOT be transferred to the final upload.', async () => {
        const name: HeaderLine = ['Upload-Metadata', 'filename YS5wbmc='];
        const target = await joined([await part(0, 10, [name])]);
        expect(await on.told(target, 'Upload-Metadata')).toEqual([undefined]);
        await joined([await part(0, 10, [name])], [['Upload-Metadata', 'filename Yi5wbmc=']]);
        expect(on.origin.requests.map((request) => request.target)).toEqual([
          '/joined?name=upload',
          '/joined?name=b.png',
        ]);
      }),
      server(
        'To PATCH of a final upload the Server MUST respond with 403, and it MUST NOT modify anything.',
        async () => {
          const one = await part(0, 1000);
          const target = await joined([one]);
          for (const offset of [0, 1000]) expectTus(await on.tus.patch(target, offset, FILE), 403);
          expect(await on.told(target, 'Upload-Offset', 'Upload-Length')).toEqual(['1000', '1000']);
          expect(await on.told(one, 'Upload-Offset', 'Upload-Length')).toEqual(['1000', '1000']);
          expect(on.origin.requests.map(({ size }) => size)).toEqual([1000]);
        },
      ),
      server('After concatenation, Upload-Offset and Upload-Length MUST be set and MUST be equal.', async () => {
        expect(await on.told(await joined([await part(0, 900)]), 'Upload-Offset', 'Upload-Length')).toEqual([
          '900',
          '900',
        ]);
      }),
      server('The response to HEAD of a part MUST contain Upload-Offset.', async () => {
        expect(await on.told(await on.tus.create([PART, LENGTH]), 'Upload-Offset')).toEqual(['0']);
        expect(await on.told(await part(0, 10), 'Upload-Offset')).toEqual(['10']);
      }),
      server('Upload-Length MUST be included if the length of the final upload can be calculated.', async () => {
        // It always can: only parts that are complete are joined.
        const later = await joined([await part(0, 10)], [['Prefer', 'respond-async']]);
        expect(await on.told(later, 'Upload-Length')).toEqual(['10']);
      }),
      server('Responses to HEAD MUST include Upload-Concat as received.', async () => {
        const one = await part(0, 10);
        expect(await on.told(one, 'Upload-Concat')).toEqual(['partial']);
        const value = `final;${on.app.url}${one} ${one}`;
        const created = await on.tus.send('POST', '/joined', [['Upload-Concat', value]]);
        expect(await on.told(new URL(created.header('Location')!).pathname, 'Upload-Concat')).toEqual([value]);
      }),
    ],
  },
  {
    name: 'Concatenation: Upload-Concat',
    musts: 4,
    demands: [
      client(
        'It MUST be set in both partial and final creations.',
        `${SENDS_IT}; without it, the upload is an ordinary one`,
      ),
      server('For a partial upload the value MUST be partial.', async () => {
        for (const value of ['Partial', 'part', 'partial;', ''])
          expectTus(await on.tus.send('POST', '/files', [LENGTH, ['Upload-Concat', value]]), 400);
      }),
      server('For a final upload it MUST be final, a semicolon and a list of URLs.', async () => {
        const one = await part(0, 10);
        expectTus(await on.tus.send('POST', '/joined', [['Upload-Concat', `final;${one} ${on.app.url}${one}`]]), 201);
        expectTus(await on.tus.send('POST', '/joined', [['Upload-Concat', `partial;${one}`]]), 400);
      }),
      server('The URLs MAY be absolute or relative and MUST NOT contain spaces.', async () => {
        expect(await part(0, 10)).toMatch(/^\/\.uploads\/[\w-]+$/);
        expectTus(await join(['/.uploads/a%20b']), 400);
      }),
    ],
  },
];

testDemands(EXTENSIONS, 60);
