import { createHash } from 'node:crypto';
import { describe, expect, test } from '@jest/globals';
import type { Intent, Refusal } from '../../src/model/messages.js';
import type { RequestHead } from '../../src/model/request-head.js';
import { ietf } from '../../src/protocol/detect.js';
import { dialects } from '../../src/protocol/versions.js';
import { head } from '../support/protocol-samples.js';

const NAMES = ['3', '4', '5', '6', '7', '8', '9', '10', 'final'];
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
  const appendLimitsApply = ['9', '10', 'final'].includes(name);

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
    expect(create(name, `${says(name, true)}\nUpload-Length: ${length}`)).toMatchObject({ declaredLength: undefined });
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
  const strictType = !['3', '4', '5'].includes(name);
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
    if (['3', '4', '5', '6'].includes(name)) expect(parsed).toMatchObject({ kind: 'append', complete: true });
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
    const refused = ['3', '4', '5', '6', '10', 'final'].includes(name);
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
