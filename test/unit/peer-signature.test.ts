import { describe, expect, test } from '@jest/globals';
import { type PeerClaim, PeerSignature } from '../../src/http/peer-signature.js';
import { TOLD_CLIENT } from '../support/peer-front.js';

const NOW = 1_800_000_000_000;
const LINE = { method: 'PATCH', target: '/.uploads/abc' };
const CLAIM: PeerClaim = { kind: 'request', to: 'b', client: TOLD_CLIENT };

const sender = new PeerSignature('secret', 'a', () => NOW);
const receiver = (now = NOW, secret = 'secret') => new PeerSignature(secret, 'b', () => now);
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
    ['a target that begins in the method', { method: 'PATCH\n/.uploads/abc', target: '' }],
  ])('a signature for %s', (_, line) => {
    expect(receiver().verify(VALUE, line)).toBe('forged');
  });

  test.each([
    ['a newer time', having(1, `${NOW + 1}`)],
    ['another claim', having(2, encoded({ ...CLAIM, client: { ...TOLD_CLIENT, authority: 'evil.example' } }))],
    ['another signature', having(3, 'A'.repeat(43))],
    ['no signature', having(3, '')],
    ['a shorter signature', having(3, VALUE.split('.')[3]!.slice(0, 40))],
    ['another version', having(0, '2')],
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
