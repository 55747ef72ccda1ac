import { describe, expect, test } from '@jest/globals';
import type { Headers } from '../../src/model/headers.js';
import { type PeerClaim, PeerSignature } from '../../src/proxy/peer-auth.js';
import { TOLD_CLIENT } from '../support/peer-front.js';

const NOW = 1_800_000_000_000;
const HEADERS: Headers = [
  ['Host', 'files.example'],
  ['Content-Length', '4'],
];
const LINE = { method: 'PATCH', target: '/.uploads/abc', headers: HEADERS };
const CLAIM: PeerClaim = { kind: 'request', to: 'b', client: TOLD_CLIENT };

const sender = new PeerSignature('secret', 'a', () => NOW);

/** One that began long before `now`. */
function receiver(now = NOW, secret = 'secret', most?: number): PeerSignature {
  let clock = now - 3_600_000;
  const made = new PeerSignature(secret, 'b', () => clock, most);
  clock = now;
  return made;
}

const VALUE = sender.sign(CLAIM, LINE);

/** The value with one of its parts made of something else. */
function having(part: number, text: string): string {
  return VALUE.split('.')
    .map((was, at) => (at === part ? text : was))
    .join('.');
}

function encoded(claim: unknown): string {
  return Buffer.from(JSON.stringify(claim)).toString('base64url');
}

test('what one node signs another believes, word for word', () => {
  expect(receiver().verify(VALUE, LINE)).toEqual(CLAIM);
  expect(receiver().verify(sender.sign({ kind: 'files', to: 'b' }, LINE), LINE)).toEqual({ kind: 'files', to: 'b' });
});

test('it is fit for a header field', () => {
  const strange = { ...CLAIM, client: { ...TOLD_CLIENT, authority: 'ü\r\nX: 1' } };
  expect(sender.sign(strange, LINE)).toMatch(/^[\w.-]+$/);
});

test.each([-29_000, 0, 29_000])('clocks may differ by %d ms', (apartMs) => {
  expect(receiver(NOW + apartMs).verify(VALUE, LINE)).toEqual(CLAIM);
});

test.each([-31_000, 31_000])('what is %d ms away is too old, or too new', (apartMs) => {
  expect(receiver(NOW + apartMs).verify(VALUE, LINE)).toBe('old');
});

describe('not believed is', () => {
  test('nothing', () => {
    expect(receiver().verify(undefined, LINE)).toBe('unsigned');
  });

  test.each([
    ['another method', { ...LINE, method: 'DELETE' }],
    ['another target', { ...LINE, target: '/.uploads/abd' }],
    ['a target that begins in the method', { ...LINE, method: 'PATCH\n/.uploads/abc', target: '' }],
    ['another length', { ...LINE, headers: [HEADERS[0]!, ['Content-Length', '5'] as const] }],
    ['no length', { ...LINE, headers: [HEADERS[0]!] }],
    ['another framing', { ...LINE, headers: [HEADERS[0]!, ['Transfer-Encoding', 'chunked'] as const] }],
    ['one more field', { ...LINE, headers: [...HEADERS, ['Upload-Complete', '?1'] as const] }],
    ['another order of the same field', { ...LINE, headers: [...HEADERS].reverse() }],
  ])('a signature for %s', (_, line) => {
    expect(receiver().verify(VALUE, line)).toBe('forged');
  });

  test.each([
    ['a newer time', having(1, `${NOW + 1}`)],
    ['another nonce', having(2, 'A'.repeat(16))],
    ['another claim', having(3, encoded({ ...CLAIM, client: { ...TOLD_CLIENT, authority: 'evil.example' } }))],
    ['another signature', having(4, 'A'.repeat(43))],
    ['no signature', having(4, '')],
    ['a shorter signature', having(4, VALUE.split('.')[4]!.slice(0, 40))],
    ['two of them', `${VALUE}, ${VALUE}`],
    ['nothing of the kind', 'refused'],
    ['the empty value', ''],
  ])('one with %s', (_, value) => {
    expect(receiver().verify(value, LINE)).toBe('forged');
  });

  test('one made with another secret', () => {
    expect(receiver(NOW, 'another').verify(VALUE, LINE)).toBe('forged');
  });

  test('one for another node', () => {
    expect(receiver().verify(sender.sign({ kind: 'files', to: 'c' }, LINE), LINE)).toBe('misdirected');
  });
});

// Issue 9, §5: replays.
describe('believed once', () => {
  test('is a signature, also within the time in which clocks may differ', () => {
    let now = NOW - 3_600_000;
    const owner = new PeerSignature('secret', 'b', () => now);
    for (const at of [NOW, NOW + 29_000]) {
      now = at;
      expect(owner.verify(VALUE, LINE)).toEqual(at === NOW ? CLAIM : 'replayed');
    }
    now = NOW + 31_000;
    expect(owner.verify(VALUE, LINE)).toBe('old');
  });

  test('is a signature for all of the time in which it would be believed, which is twice that', () => {
    let now = NOW - 3_600_000;
    const owner = new PeerSignature('secret', 'b', () => now);
    const early = new PeerSignature('secret', 'a', () => now + 29_000);
    now = NOW;
    expect(owner.verify(sender.sign(CLAIM, LINE), LINE)).toEqual(CLAIM);
    now = NOW + 59_000;
    const value = early.sign(CLAIM, LINE);
    expect(owner.verify(value, LINE)).toEqual(CLAIM);
    // Others come meanwhile, by which what is older is forgotten.
    for (const at of [61_000, 87_000, 117_000]) {
      now = NOW + at;
      expect(owner.verify(early.sign(CLAIM, LINE), LINE)).toEqual(CLAIM);
      expect(owner.verify(value, LINE)).toBe('replayed');
    }
    now = NOW + 119_000;
    expect(owner.verify(value, LINE)).toBe('old');
  });

  test('is what was signed after the receiver began: it does not know what was used before', () => {
    expect(new PeerSignature('secret', 'b', () => NOW + 1).verify(VALUE, LINE)).toBe('old');
  });

  test('are as many as can be remembered, and no more', () => {
    const owner = receiver(NOW, 'secret', 2);
    const verdicts = [1, 2, 3].map(() => owner.verify(sender.sign(CLAIM, LINE), LINE));
    expect(verdicts).toEqual([CLAIM, CLAIM, 'busy']);
  });
});

test.each(['1', '3', '10'])('a signature of version %s is told apart from a forged one', (version) => {
  expect(receiver().verify(having(0, version), LINE)).toBe('version');
});

test('lines of the connection may change on the way', () => {
  const headers: Headers = [...HEADERS, ['Connection', 'keep-alive']];
  expect(receiver().verify(VALUE, { ...LINE, headers })).toEqual(CLAIM);
});
