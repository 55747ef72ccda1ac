import { createHash } from 'node:crypto';
import { describe, expect, test } from '@jest/globals';
import { fieldValue } from '../../src/model/headers.js';
import type { Intent, InterimUpdate, Outcome, Refusal, RelayedAnswer } from '../../src/model/messages.js';
import type { RequestHead } from '../../src/model/request-head.js';
import type { Limits } from '../../src/model/route.js';
import { ietf } from '../../src/protocol/detect.js';
import type { Reply } from '../../src/protocol/protocol.js';
import { uploadLimit } from '../../src/protocol/upload-headers.js';
import { dialects } from '../../src/protocol/versions.js';
import { answeredUpload, CONTEXT, head, LIMITS, upload, wholeUpload } from '../support/protocol-samples.js';

describe('parsing', () => {
  const NAMES = ['3', '4', '5', '6', '7', '8', '9', '10', 'final'];
  const WITH_APPEND_LIMITS_ON_CREATION = ['9', '10', 'final'];
  const WITHOUT_APPEND_TYPE = ['3', '4', '5'];
  const WITH_OPTIONAL_COMPLETENESS = ['3', '4', '5', '6'];
  const WITH_STRICT_CANCEL = ['3', '4', '5', '6', '10', 'final'];
  const value = createHash('sha256').update('hello').digest();
  const digest = { algorithm: 'sha-256', value: value.toString('hex') } as const;
  const digestLine = `sha-256=:${value.toString('base64')}:`;

  const protocolOf = (name: string) => ietf(dialects.get(name)!);
  const create = (name: string, fields: string, facts?: Partial<RequestHead>): Intent | Refusal =>
    protocolOf(name).parseCreation(head(`POST /f\n${fields}`, facts));
  const ask = (name: string, text: string, facts?: Partial<RequestHead>): Intent | Refusal =>
    protocolOf(name).parseUploadRequest(head(text, facts), 'id');

  /** The completeness field of a dialect (RUFH §4.1.2; draft-01 says the opposite). */
  const says = (name: string, complete: boolean): string =>
    name === '3' ? `Upload-Incomplete: ${complete ? '?0' : '?1'}` : `Upload-Complete: ${complete ? '?1' : '?0'}`;

  test('every version is there, and the form without one', () => {
    expect([...dialects.keys()]).toEqual(NAMES);
  });

  describe.each(NAMES)('interop %s: a creation', (name) => {
    const bare = { kind: 'create', dialect: name, contentDigests: [], reprDigests: [] };
    const appendLimitsApply = WITH_APPEND_LIMITS_ON_CREATION.includes(name);

    test.each([true, false])('is complete: %p', (complete) => {
      const intent = create(name, says(name, complete), { contentLength: 5, hasBody: true });
      expect(intent).toEqual({ ...bare, complete, contentLength: 5, appendLimitsApply });
    });

    test('says all it can say', () => {
      const fields = [
        ...[says(name, false), 'Upload-Length: 1000', 'Upload-Offset: 0', 'Want-Repr-Digest: sha-256=3, sha-512=10'],
        ...[`Content-Digest: ${digestLine}`, `Repr-Digest: ${digestLine}`],
      ];
      expect(create(name, fields.join('\n'), { hasBody: true })).toEqual({
        ...bare,
        complete: false,
        declaredLength: 1000,
        appendLimitsApply,
        contentDigests: [digest],
        reprDigests: [digest],
        wantedReprDigest: 'sha-512',
      });
    });

    test('knows that it has no content when it has no body', () => {
      expect(create(name, says(name, true))).toMatchObject({ complete: true, contentLength: 0 });
    });

    test.each(['-5', 'x', '0.0', '1000, 1000'])('ignores a length of %j', (length) => {
      expect(create(name, `${says(name, true)}\nUpload-Length: ${length}`)).toMatchObject({
        declaredLength: undefined,
      });
    });

    test.each(['0', '-0', '-5', '5.0', 'x', '5, 5'])('may carry an offset of %j', (offset) => {
      expect(create(name, `${says(name, true)}\nUpload-Offset: ${offset}`)).toMatchObject({ kind: 'create' });
    });

    test('must not begin elsewhere than at 0', () => {
      const detail = 'A new upload begins at offset 0: leave Upload-Offset out, or append to an upload.';
      expect(create(name, `${says(name, true)}\nUpload-Offset: 5`)).toEqual({ reason: 'malformed', detail });
    });

    test.each(['Content-Digest', 'Repr-Digest'])('must not carry garbage for a %s', (field) => {
      expect(create(name, `${says(name, true)}\n${field}: sha-256=x`)).toMatchObject({ reason: 'malformed' });
      expect(create(name, `${says(name, true)}\n${field}: xxh64=x`)).toMatchObject({ kind: 'create' });
    });

    test('of nothing with length 0 is the whole for tus-js-client only, which would never send the end', () => {
      const empty = (facts: Partial<RequestHead>) => create(name, `${says(name, false)}\nUpload-Length: 0`, facts);
      const complete = name === '5' || name === '6';
      expect(empty({ contentLength: 0 })).toMatchObject({ complete, declaredLength: 0 });
      expect(empty({})).toMatchObject({ complete });
      expect(empty({ hasBody: true })).toMatchObject({ complete: false });
      expect(create(name, says(name, false))).toMatchObject({ complete: false });
    });
  });

  describe.each(NAMES)('interop %s: an append', (name) => {
    const type = 'Content-Type: application/partial-upload';
    const bare = { kind: 'append', id: 'id', contentDigests: [], reprDigests: [] };
    const strictType = !WITHOUT_APPEND_TYPE.includes(name);
    const field = says(name, true).split(':')[0]!;

    test.each([true, false])('is complete: %p', (complete) => {
      const text = `PATCH /u\n${type}\nUpload-Offset: 0600\n${says(name, complete)}`;
      const intent = ask(name, text, { contentLength: 400, hasBody: true });
      expect(intent).toEqual({ ...bare, offset: 600, complete, contentLength: 400 });
    });

    test('says all it can say', () => {
      const digests = `Content-Digest: ${digestLine}\nRepr-Digest: ${digestLine}`;
      const text = `PATCH /u\n${type}; x=1\nUpload-Offset: 600\nUpload-Length: 1000\n${says(name, true)}\n${digests}`;
      expect(ask(name, text, { hasBody: true })).toEqual({
        ...bare,
        offset: 600,
        complete: true,
        declaredLength: 1000,
        contentDigests: [digest],
        reprDigests: [digest],
      });
    });

    test.each(['', 'Content-Type: image/png', 'Content-Type: application/offset+octet-stream', `${type}\n${type}`])(
      'with %j has the right media type up to draft-03 only',
      (line) => {
        const parsed = ask(name, `PATCH /u\n${line}\nUpload-Offset: 600\n${says(name, true)}`.replace('\n\n', '\n'));
        if (!strictType) expect(parsed).toMatchObject({ kind: 'append', offset: 600 });
        else expect(parsed).toEqual({ reason: 'unsupported-media-type', expected: 'application/partial-upload' });
      },
    );

    test.each(['', '-1', '5.0', 'x', '600, 600'])('does not know where it belongs with an offset of %j', (offset) => {
      const line = offset === '' ? '' : `\nUpload-Offset: ${offset}`;
      expect(ask(name, `PATCH /u\n${type}${line}\n${says(name, true)}`)).toEqual({
        reason: 'malformed',
        detail: 'Upload-Offset has to say, as an Integer, where the content belongs.',
      });
    });

    test('without completeness is the end up to draft-05, and malformed later', () => {
      const parsed = ask(name, `PATCH /u\n${type}\nUpload-Offset: 600`);
      if (WITH_OPTIONAL_COMPLETENESS.includes(name)) expect(parsed).toMatchObject({ kind: 'append', complete: true });
      else expect(parsed).toMatchObject({ reason: 'malformed' });
    });

    test.each(['true', '1', '?2', '', '?1, ?1'])('never ends an upload with a completeness of %j', (garbage) => {
      expect(ask(name, `PATCH /u\n${type}\nUpload-Offset: 600\n${field}: ${garbage}`)).toEqual({
        reason: 'malformed',
        detail: `${field} has to say, as ?0 or ?1, whether this is the end.`,
      });
    });

    test.each(['Content-Digest', 'Repr-Digest'])('must not carry garbage for a %s', (line) => {
      const text = `PATCH /u\n${type}\nUpload-Offset: 600\n${says(name, true)}\n${line}`;
      expect(ask(name, `${text}: sha-256=:YQ==:`)).toMatchObject({ reason: 'malformed' });
      expect(ask(name, `${text}: xxh64=:YQ==:`)).toMatchObject({ kind: 'append' });
    });
  });

  describe.each(NAMES)('interop %s: asking and cancelling', (name) => {
    test.each(['HEAD', 'GET'])('%s asks for the offset', (method) => {
      expect(ask(name, `${method} /u\nContent-Type: image/png`, { contentLength: 0 })).toEqual({
        kind: 'retrieve',
        id: 'id',
      });
    });

    test.each([
      ['Upload-Offset: 5', 'Upload-Offset'],
      ['Upload-Length: 5', 'Upload-Length'],
      ['completeness', says(name, true).split(':')[0]!],
    ])('HEAD must not carry %s', (line, field) => {
      const text = `HEAD /u\n${line === 'completeness' ? says(name, false) : line}`;
      const detail = `A request for the offset must not carry ${field}.`;
      expect(ask(name, text)).toEqual({ reason: 'malformed', detail });
    });

    test('HEAD may carry garbage, which is as good as nothing', () => {
      const text = 'HEAD /u\nUpload-Offset: x\nUpload-Length: -1\nUpload-Complete: yes\nUpload-Incomplete: no';
      expect(ask(name, text)).toEqual({ kind: 'retrieve', id: 'id' });
    });

    test('DELETE cancels', () => {
      expect(ask(name, 'DELETE /u')).toEqual({ kind: 'cancel', id: 'id' });
    });

    test('DELETE with an offset or completeness is refused up to draft-05 and again from draft-13 on', () => {
      const refused = WITH_STRICT_CANCEL.includes(name);
      const expected = refused ? { reason: 'malformed' } : { kind: 'cancel' };
      expect(ask(name, 'DELETE /u\nUpload-Offset: 5')).toMatchObject(expected);
      expect(ask(name, `DELETE /u\n${says(name, true)}`)).toMatchObject(expected);
      expect(ask(name, 'DELETE /u\nUpload-Length: 5')).toMatchObject({ kind: 'cancel' });
      expect(ask(name, 'DELETE /u\nUpload-Offset: x')).toMatchObject({ kind: 'cancel' });
    });

    test('OPTIONS asks what the upload allows', () => {
      expect(ask(name, 'OPTIONS /u')).toEqual({ kind: 'discover', id: 'id' });
    });

    test.each(['PUT', 'POST', 'TRACE'])('%s means nothing here', (method) => {
      const allowed = ['HEAD', 'GET', 'PATCH', 'DELETE', 'OPTIONS'];
      expect(ask(name, `${method} /u`)).toEqual({ reason: 'method-not-allowed', allowed });
    });
  });
});

describe('versions', () => {
  const VERSIONS = ['3', '4', '5', '6', '7', '8', '9', '10', 'final'] as const;
  const U = 'https://proxy.example/.uploads/b530ce8ff';

  async function* bytes(): AsyncGenerator<Uint8Array> {
    yield await Promise.resolve(Buffer.from('{}'));
  }

  const answer = (status: number, location?: string): RelayedAnswer => ({
    status,
    reason: '',
    headers: location === undefined ? [] : [['Location', location]],
    body: bytes(),
    trailers: () => [],
  });
  /** It is shown while it comes in, and a crash could still take it away. */
  const unrecorded = (status: number): Outcome => ({
    ...{ kind: 'answered', to: 'append', upload: wholeUpload({ phase: 'delivering' }), answer: answer(status) },
  });
  const answered = (to: 'create' | 'append', status: number, location?: string): Outcome => ({
    ...{ kind: 'answered', to, upload: answeredUpload(status), answer: answer(status, location) },
  });
  const created: Outcome = { kind: 'created', upload: upload() };
  const appended: Outcome = { kind: 'appended', upload: upload() };
  const halfway: Outcome = { kind: 'retrieved', upload: upload({ length: 1000 }) };
  const why = { reason: 'unreachable', problem: '' } as const;
  const undelivered: Outcome = { kind: 'undelivered', upload: wholeUpload(), failure: why, retryAfterSeconds: 1 };
  const refused = (refusal: Refusal): Outcome => ({ kind: 'refused', refusal });
  const resumable: InterimUpdate = { kind: 'resumable', upload: upload() };
  const progress = (during: 'create' | 'append'): InterimUpdate => ({
    kind: 'progress',
    during,
    upload: upload(),
    offset: 700,
  });

  const field = (reply: Reply | undefined, name: string): string | undefined =>
    reply && fieldValue(reply.headers, name);
  const problemType = (reply: Reply): string =>
    (JSON.parse(reply.body as string) as { type: string }).type.replace(/^.*#/, '');
  const limitNames = (reply: Reply | undefined): string | undefined =>
    field(reply, 'Upload-Limit')?.replace(/=\d+/g, '');

  const OLD = 'max-size, min-size, max-append-size, min-append-size, expires';
  const NEW = 'max-size, min-size, max-append-size, min-append-size, max-age';
  const BLANK = 'about:blank';
  const OFFSET = 'mismatching-upload-offset';
  const LENGTHS = 'inconsistent-upload-length';
  const none = undefined;
  const all = (value: unknown): unknown[] => VERSIONS.map(() => value);

  /** Each row is a rule of the drafts, each column what a version makes of it. */
  type Row = readonly [rule: string, ask: (say: Say) => unknown, ...values: unknown[]];
  interface Say {
    final: (outcome: Outcome) => Reply;
    interim: (news: InterimUpdate) => Reply | undefined;
  }

  // prettier-ignore
  const ROWS: readonly Row[] = [
  // what is asked                                                             3       4       5       6       7       8       9       10      final
  // RUFH §5 (104), §4.1.4 (limits)
  ['104: version of the request', (s) => field(s.interim(resumable), 'Upload-Draft-Interop-Version'),
    '3', '4', '5', '6', '7', '8', '9', '10', none],
  ['final answers: version of the request', (s) => field(s.final(halfway), 'Upload-Draft-Interop-Version'),
    '3', '4', '5', '6', '7', '8', '9', '10', none],
  ['104 of a creation: Location', (s) => field(s.interim(resumable), 'Location'), U, U, U, U, U, U, U, U, U],
  ['104 of a creation: limits', (s) => limitNames(s.interim(resumable)), none, none, none, OLD, NEW, NEW, NEW, NEW, NEW],
  ['104 of a creation: offset, later', (s) => field(s.interim(progress('create')), 'Upload-Offset'),
    none, none, '700', '700', '700', '700', '700', '700', '700'],
  ['104 of a creation: Location, later', (s) => field(s.interim(progress('create')), 'Location'),
    none, none, none, none, none, none, U, U, U],
  ['104 of an append: offset', (s) => field(s.interim(progress('append')), 'Upload-Offset'),
    none, none, '700', '700', '700', '700', '700', '700', '700'],
  ['104 of an append: Location', (s) => field(s.interim(progress('append')), 'Location'),
    none, none, none, none, none, none, none, none, none],
  // RUFH §4.2.2, §4.1.2 (completeness)
  ['creation, more to come: status', (s) => s.final(created).status, 201, 201, 201, 201, 201, 201, 201, 201, 201],
  ['creation, more to come: Location', (s) => field(s.final(created), 'Location'), U, U, U, U, U, U, U, U, U],
  ['creation, more to come: offset', (s) => field(s.final(created), 'Upload-Offset'),
    '600', '600', '600', '600', '600', '600', '600', '600', '600'],
  ['creation, more to come: limits', (s) => limitNames(s.final(created)), none, none, none, OLD, NEW, NEW, NEW, NEW, NEW],
  ['more to come: Upload-Incomplete', (s) => field(s.final(created), 'Upload-Incomplete'),
    '?1', none, none, none, none, none, none, none, none],
  ['more to come: Upload-Complete', (s) => field(s.final(created), 'Upload-Complete'),
    none, '?0', '?0', '?0', '?0', '?0', '?0', '?0', '?0'],
  // RUFH §4.4.2
  ['append, more to come: status', (s) => s.final(appended).status, 201, 201, 201, 201, 204, 204, 204, 204, 204],
  ['append, more to come: offset', (s) => field(s.final(appended), 'Upload-Offset'),
    '600', '600', '600', '600', '600', '600', '600', '600', '600'],
  // RUFH §4.3.2
  ['offset: status', (s) => s.final(halfway).status, 204, 204, 204, 204, 204, 204, 204, 204, 204],
  ['offset: length', (s) => field(s.final(halfway), 'Upload-Length'),
    none, none, none, '1000', '1000', '1000', '1000', '1000', '1000'],
  ['offset: limits', (s) => limitNames(s.final(halfway)), none, none, none, OLD, NEW, NEW, NEW, NEW, NEW],
  ['offset: not to be kept', (s) => field(s.final(halfway), 'Cache-Control'), ...all('no-store')],
  // RUFH §4.2.2, §4.4.2: the target's own answer; draft-01 to -05 give a Location with it
  ['answer: offset of a good one', (s) => field(s.final(answered('append', 200)), 'Upload-Offset'), ...all('1000')],
  ['answer: offset of a good one that is not recorded yet', (s) => field(s.final(unrecorded(200)), 'Upload-Offset'), ...all('999')],
  ['answer: offset of a bad one', (s) => field(s.final(answered('append', 422)), 'Upload-Offset'), ...all('999')],
  ['answer: Upload-Incomplete', (s) => field(s.final(answered('create', 200)), 'Upload-Incomplete'),
    '?0', none, none, none, none, none, none, none, none],
  ['answer: Upload-Complete', (s) => field(s.final(answered('create', 422)), 'Upload-Complete'),
    none, '?1', '?1', '?1', '?1', '?1', '?1', '?1', '?1'],
  ['answer to a creation: Location', (s) => field(s.final(answered('create', 200)), 'Location'),
    U, U, U, U, none, none, none, none, none],
  ['answer to a creation: the origin’s Location', (s) => field(s.final(answered('create', 201, '/42')), 'Location'), ...all('/42')],
  ['answer to a creation, bad: Location', (s) => field(s.final(answered('create', 422)), 'Location'), ...all(none)],
  ['answer to an append: Location', (s) => field(s.final(answered('append', 200)), 'Location'), ...all(none)],
  // RUFH §4.7 (retry), §4.1.1: never more than was acknowledged
  ['no answer: status', (s) => s.final(undelivered).status, 502, 502, 502, 502, 502, 502, 503, 503, 503],
  ['no answer: offset', (s) => field(s.final(undelivered), 'Upload-Offset'), ...all('999')],
  // RUFH §4.4.2, §7 (problem types)
  ['unknown: status', (s) => s.final(refused({ reason: 'unknown-upload' })).status, ...all(404)],
  ['gone: status', (s) => s.final(refused({ reason: 'gone', detail: '' })).status, 404, 404, 404, 404, 410, 410, 410, 410, 410],
  ['wrong media type: status', (s) => s.final(refused({ reason: 'unsupported-media-type', expected: 'x/y' })).status,
    415, 415, 415, 400, 415, 415, 415, 415, 415],
  ['wrong offset: status', (s) => s.final(refused({ reason: 'mismatching-offset', upload: upload(), provided: 1 })).status,
    ...all(409)],
  ['wrong offset: type', (s) => problemType(s.final(refused({ reason: 'mismatching-offset', upload: upload(), provided: 1 }))),
    BLANK, BLANK, BLANK, OFFSET, OFFSET, OFFSET, OFFSET, OFFSET, OFFSET],
  ['already complete: status', (s) => s.final(refused({ reason: 'already-complete', upload: wholeUpload() })).status,
    409, 409, 409, 400, 400, 400, 400, 400, 400],
  ['already complete: type', (s) => problemType(s.final(refused({ reason: 'already-complete', upload: wholeUpload() }))),
    BLANK, BLANK, BLANK, 'completed-upload', 'completed-upload', LENGTHS, LENGTHS, LENGTHS, LENGTHS],
  ['lengths that differ: type', (s) => problemType(s.final(refused({ reason: 'inconsistent-length', detail: '' }))),
    BLANK, BLANK, BLANK, BLANK, LENGTHS, LENGTHS, LENGTHS, LENGTHS, LENGTHS],
  ['too large: limits', (s) => limitNames(s.final(refused({ reason: 'too-large', maxSize: 1 }))), none, none, none, OLD, NEW, NEW, NEW, NEW, NEW],
  ['wrong method: Allow', (s) => field(s.final(refused({ reason: 'method-not-allowed', allowed: ['HEAD'] })), 'Allow'),
    ...all('HEAD')],
];

  describe.each(ROWS)('%s', (_, ask, ...values) => {
    test.each(VERSIONS.map((version, column) => [version, values[column]]))('in %s is %j', (version, value) => {
      const protocol = ietf(dialects.get(version as string)!, { finalInterim: true });
      const say: Say = {
        final: (outcome) => protocol.render(outcome, CONTEXT),
        interim: (news) => protocol.interim(news, CONTEXT),
      };
      expect(ask(say)).toBe(value);
    });
  });

  test('the form without a version sends no 104 unless it is told to', () => {
    const final = dialects.get('final')!;
    expect(ietf(final).interim(resumable, CONTEXT)).toBeUndefined();
    expect(ietf(final, { finalInterim: false }).interim(progress('append'), CONTEXT)).toBeUndefined();
    expect(ietf(final, { finalInterim: true }).interim(resumable, CONTEXT)).toBeDefined();
    expect(ietf(dialects.get('6')!, { finalInterim: false }).interim(resumable, CONTEXT)).toBeDefined();
  });

  test.each(VERSIONS)('interop %s relays the origin’s body, its size and its trailers', (version) => {
    const trailers = [['X-Sum', '1'], ['Upload-Offset', '7']] as const; // prettier-ignore
    const relayed = { ...answer(200), reason: 'Fine', bodySize: 2, trailers: () => trailers };
    const outcome: Outcome = { kind: 'answered', to: 'append', upload: answeredUpload(200), answer: relayed };
    const reply = ietf(dialects.get(version)!).render(outcome, CONTEXT);
    expect(reply).toMatchObject({ status: 200, reason: 'Fine', bodySize: 2 });
    expect(reply.body).toBe(relayed.body);
    expect(reply.trailers?.()).toEqual([['X-Sum', '1']]);
  });

  describe('Upload-Limit always has a value', () => {
    test.each<[Limits, number, string]>([
      [LIMITS, 10, 'max-size=1000000, min-size=0, max-append-size=500000, min-append-size=10, max-age=10'],
      [{ minSize: 0, maxAgeSeconds: 60 }, 59.9, 'min-size=0, max-age=59'],
      [{ minSize: 5, maxAgeSeconds: 60, maxSize: 0 }, -3, 'max-size=0, min-size=5, max-age=0'],
    ])('%j', (limits, secondsLeft, expected) => {
      expect(uploadLimit(limits, 'max-age', secondsLeft)).toBe(expected);
    });
  });
});
