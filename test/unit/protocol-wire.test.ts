import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from '@jest/globals';
import type { Headers } from '../../src/model/headers.js';
import type { InterimUpdate, Outcome, Refusal, RelayedAnswer } from '../../src/model/messages.js';
import type { Digest, Undelivered } from '../../src/model/upload.js';
import { ietf } from '../../src/protocol/detect.js';
import { dialects } from '../../src/protocol/versions.js';
import { answeredUpload, CONTEXT, upload, wholeUpload, wireText } from '../support/protocol-samples.js';

/**
 * What is on the wire, version by version: `protocol-wire/*.txt` hold every response that we generate or relay, whole,
 * in the words of each dialect. They are written for reading beside the drafts.
 */
const transcript = (name: string): string =>
  readFileSync(join(import.meta.dirname, 'protocol-wire', `${name}.txt`), 'utf8');

const reprDigest: Digest = { algorithm: 'sha-256', value: '00'.repeat(32) };

function answered(to: 'create' | 'append', status: number, headers: Headers = [], bodySize?: number): Outcome {
  const answer: RelayedAnswer = {
    status,
    reason: 'As You Like',
    headers,
    bodySize,
    body: nothing(),
    trailers: () => [],
  };
  return { kind: 'answered', to, upload: answeredUpload(status), answer };
}

async function* nothing(): AsyncGenerator<Uint8Array> {}

const refused = (refusal: Refusal): Outcome => ({ kind: 'refused', refusal });

function undelivered(reason: Undelivered['reason']): Outcome {
  const why: Undelivered = { reason, problem: 'connect ECONNREFUSED 10.0.0.7:3000' };
  return {
    kind: 'undelivered',
    upload: wholeUpload({ phase: 'undelivered', undelivered: why }),
    failure: why,
    retryAfterSeconds: 30,
  };
}

function parked(headers: Headers): Outcome {
  const { answer } = answered('append', 401, headers, 12) as Extract<Outcome, { readonly kind: 'answered' }>;
  return { kind: 'parked', upload: wholeUpload({ phase: 'undelivered' }), answer };
}

const OF_THE_ORIGIN: Headers = [
  ['content-type', 'application/json'],
  ['X-Thing', 'a'],
  ['x-thing', 'b'],
  ['upload-offset', '7'],
  ['Upload-Complete', '?0'],
  ['Upload-Draft-Interop-Version', '99'],
  ['Tus-Resumable', '1.0.0'],
];
const WITH_LOCATION: Headers = [['Location', '/files/42']];

const news: Readonly<Record<string, InterimUpdate>> = {
  'interim: an upload was created': { kind: 'resumable', upload: upload() },
  'interim: progress of a creation': { kind: 'progress', during: 'create', upload: upload(), offset: 400 },
  'interim: progress of an append': { kind: 'progress', during: 'append', upload: upload(), offset: 700 },
};

const outcomes: Readonly<Record<string, Outcome>> = {
  created: { kind: 'created', upload: upload() },
  'created, digest wanted': { kind: 'created', upload: upload(), reprDigest },
  appended: { kind: 'appended', upload: upload() },
  'appended, digest wanted': { kind: 'appended', upload: upload(), reprDigest },
  'offset, length unknown': { kind: 'retrieved', upload: upload() },
  'offset, length known': { kind: 'retrieved', upload: upload({ length: 1000 }) },
  'offset, digest wanted': { kind: 'retrieved', upload: upload(), reprDigest },
  'offset, whole but not answered yet': { kind: 'retrieved', upload: wholeUpload() },
  'offset, whole but the full offset was shown before': {
    kind: 'retrieved',
    upload: wholeUpload({ heldBack: undefined }),
  },
  'offset, answered well': { kind: 'retrieved', upload: answeredUpload(201) },
  'offset, answered badly': { kind: 'retrieved', upload: answeredUpload(422) },
  'offset, time is over': { kind: 'retrieved', upload: upload({ expiresAt: CONTEXT.nowMs - 5000 }) },
  'answer to a creation': answered('create', 200, OF_THE_ORIGIN),
  'answer to a creation, with a Location': answered('create', 201, WITH_LOCATION),
  'answer to a creation, a redirect': answered('create', 303, [['location', '/files/42']]),
  'answer to a creation, bad': answered('create', 422, OF_THE_ORIGIN),
  'answer to an append': answered('append', 200, OF_THE_ORIGIN, 17),
  'answer to an append, bad': answered('append', 500),
  'answer 201, digest wanted': { ...answered('append', 201, [], 17), reprDigest } as Outcome,
  'answer 204, digest wanted': { ...answered('append', 204, [], 0), reprDigest } as Outcome,
  'answer 200 without a body, digest wanted': { ...answered('append', 200, [], 0), reprDigest } as Outcome,
  'answer 200 with a body, digest wanted': { ...answered('append', 200, [], 17), reprDigest } as Outcome,
  'answer with a digest of its own': {
    ...answered('append', 201, [['repr-digest', 'md5=:x:']]),
    reprDigest,
  } as Outcome,
  'undelivered, unreachable': undelivered('unreachable'),
  'undelivered, refused': undelivered('refused'),
  'undelivered, outcome unknown': undelivered('outcome-unknown'),
  'undelivered, quarantined': undelivered('quarantined'),
  'pending, the origin works on it': { kind: 'pending', upload: wholeUpload(), retryAfterSeconds: 30 },
  'pending, to be tried again': {
    kind: 'pending',
    upload: wholeUpload(),
    failure: { reason: 'refused', status: 503, problem: 'the origin answered 503' },
    retryAfterSeconds: 7,
  },
  'accepted, the client does not wait': { kind: 'accepted', upload: wholeUpload({ heldBack: undefined }) },
  'parked by a 401': parked([['WWW-Authenticate', 'Bearer'], ...OF_THE_ORIGIN]),
  cancelled: { kind: 'cancelled' },
  discovered: { kind: 'discovered' },
  'refused: malformed': refused({ reason: 'malformed', detail: 'What was wrong.' }),
  'refused: malformed, on an upload': refused({ reason: 'malformed', detail: 'What was wrong.', upload: upload() }),
  'refused: unknown upload': refused({ reason: 'unknown-upload' }),
  'refused: gone': refused({ reason: 'gone', detail: 'The upload has expired.' }),
  'refused: mismatching offset': refused({ reason: 'mismatching-offset', upload: upload(), provided: 500 }),
  'refused: mismatching offset, on a whole upload': refused({
    reason: 'mismatching-offset',
    upload: wholeUpload(),
    provided: 500,
  }),
  'refused: already complete, answered': refused({ reason: 'already-complete', upload: answeredUpload(200) }),
  'refused: already complete, not answered': refused({ reason: 'already-complete', upload: wholeUpload() }),
  'refused: inconsistent length': refused({ reason: 'inconsistent-length', detail: 'Two lengths.' }),
  'refused: inconsistent length, on an upload': refused({
    reason: 'inconsistent-length',
    detail: 'Two lengths.',
    upload: upload(),
  }),
  'refused: exceeds length': refused({ reason: 'exceeds-length', length: 1000 }),
  'refused: too large': refused({ reason: 'too-large', maxSize: 1_000_000 }),
  'refused: too large, on an upload': refused({ reason: 'too-large', maxSize: 1_000_000, upload: upload() }),
  'refused: append too large': refused({ reason: 'append-too-large', maxAppendSize: 500_000, upload: upload() }),
  'refused: append too small': refused({ reason: 'append-too-small', minAppendSize: 10, upload: upload() }),
  'refused: unsupported media type': refused({
    reason: 'unsupported-media-type',
    expected: 'application/partial-upload',
    upload: upload(),
  }),
  'refused: Content-Digest': refused({ reason: 'digest-mismatch', field: 'Content-Digest', upload: upload() }),
  'refused: Repr-Digest': refused({ reason: 'digest-mismatch', field: 'Repr-Digest' }),
  'refused: method not allowed': refused({ reason: 'method-not-allowed', allowed: ['HEAD', 'PATCH'] }),
  'refused: storage full': refused({ reason: 'storage-full', upload: upload() }),
  'refused: unavailable': refused({ reason: 'unavailable', detail: 'The disk is away.', retryAfterSeconds: 4.2 }),
  'refused: client limit': refused({ reason: 'client-limit', limit: 'rate', retryAfterSeconds: 1.2 }),
};

const SCENES = [...Object.keys(news), ...Object.keys(outcomes)];

describe.each([...dialects.keys()])('interop %s', (name) => {
  const protocol = ietf(dialects.get(name)!, { finalInterim: true });
  const scenes = new Map(
    transcript(name)
      .split(/^## /m)
      .slice(1)
      .map((scene) => [scene.slice(0, scene.indexOf('\n')), scene.slice(scene.indexOf('\n') + 1).trim()]),
  );

  test('has a transcript of every scene and of nothing else', () => {
    expect([...scenes.keys()]).toEqual(SCENES);
  });

  test.each(SCENES)('%s', (scene) => {
    const heard = news[scene];
    const outcome = outcomes[scene];
    const reply = heard ? protocol.interim(heard, CONTEXT) : protocol.render(outcome!, CONTEXT);
    expect(wireText(reply)).toBe(scenes.get(scene));
  });
});
