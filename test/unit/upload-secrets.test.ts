import { describe, expect, test } from '@jest/globals';
import type { Headers } from '../../src/model/headers.js';
import type { Answer, Upload } from '../../src/model/upload.js';
import { isGeneratedId, isUploadToken, uploadIdOf } from '../../src/model/upload-id.js';
import { uploadTag } from '../../src/observe/log.js';
import { KeyRing, keyIdOf, sealingKey } from '../../src/secrets/key-ring.js';
import type { UploadSecrets } from '../../src/secrets/upload-secrets.js';
import { testSecrets } from '../support/secrets.js';

const TOKEN = 'A'.repeat(32);
const URL_OF_A_PART = `http://here/.uploads/${'p'.repeat(32)}`;

const HEADERS: Headers = [
  ['Host', 'here'],
  ['authorization', 'Bearer one'],
  ['X-Other', 'seen'],
  ['Cookie', 'a=1'],
  ['Cookie', ''],
  ['Upload-Concat', `final;${URL_OF_A_PART} ${URL_OF_A_PART}`],
  ['Referer', 'http://here/.uploads/'],
];

function uploadWith(headers: Headers = HEADERS, more: Partial<Upload> = {}): Upload {
  return { id: uploadIdOf(TOKEN), request: { method: 'POST', target: '/', headers }, ...more } as unknown as Upload;
}

describe('ids', () => {
  test('an id is no token, and a token no id', () => {
    const id = uploadIdOf(TOKEN);
    expect([isUploadToken(TOKEN), isUploadToken(id), isGeneratedId(id), isGeneratedId(TOKEN)]).toEqual([
      true,
      false,
      true,
      true,
    ]);
    expect(uploadTag(id)).toBe(uploadTag(TOKEN));
    expect(id).not.toContain(TOKEN.slice(0, 8));
  });
});

describe('a creation', () => {
  test('is stored without its secrets, which stay at their places', () => {
    const secrets = testSecrets();
    const upload = uploadWith(HEADERS, {
      addedHeaders: [
        ['Cookie', 'of the service'],
        ['X-User', 'ada'],
      ],
    });
    const stored = secrets.withhold(upload, ['x-other'], TOKEN);
    expect(stored.request.headers.map(([, value]) => value)).toEqual([
      'here',
      '',
      '',
      '',
      '',
      '',
      'http://here/.uploads/',
    ]);
    expect(stored.addedHeaders).toEqual([
      ['Cookie', ''],
      ['X-User', 'ada'],
    ]);
    expect(JSON.stringify(stored)).not.toMatch(/Bearer|a=1|ppp|service|seen|AAAA/);
    const { upload: revealed, missing, missingAdded } = secrets.reveal(stored);
    expect([revealed.request, revealed.addedHeaders, missing, missingAdded]).toEqual([
      upload.request,
      upload.addedHeaders,
      [],
      [],
    ]);
    expect(secrets.tokenOf(stored)).toBe(TOKEN);
  });

  test.each([
    `http://here/.uploads/${TOKEN}`,
    `http://app/page?upload=http%3A%2F%2Fhere%2F.uploads%2F${TOKEN}&x=1`,
    `/page?next=%2fview%3fof%3d%252F.uploads%252f${TOKEN}`,
  ])('has no URL of an upload in clear, however it is encoded: %s', (value) => {
    const secrets = testSecrets();
    const stored = secrets.withhold(uploadWith([['Referer', value]]));
    expect(JSON.stringify(stored)).not.toContain(TOKEN);
    expect(secrets.reveal(stored).upload.request.headers).toEqual([['Referer', value]]);
  });

  test('without secrets is stored as it is', () => {
    const upload = uploadWith([['X-Other', 'seen']]);
    expect(testSecrets().withhold(upload)).toBe(upload);
    expect(testSecrets().reveal(upload).upload).toBe(upload);
  });

  test('without a kept value needs it of another request, and keeps the URLs of its parts', () => {
    const secrets = testSecrets({ keep: false });
    const stored = secrets.withhold(uploadWith());
    expect(secrets.reveal(stored).missing).toEqual(['authorization', 'cookie']);
    const fresh: Headers = [
      ['Authorization', 'Bearer two'],
      ['cookie', 'b=2'],
      ['cookie', 'c=3'],
    ];
    const { upload, missing } = secrets.reveal(stored, fresh);
    expect(missing).toEqual([]);
    expect(upload.request.headers).toEqual([
      HEADERS[0],
      fresh[0],
      HEADERS[2],
      fresh[1],
      fresh[2],
      HEADERS[5],
      HEADERS[6],
    ]);
    expect(secrets.reveal(stored, fresh.slice(1)).missing).toEqual(['authorization']);
  });
});

describe('a sealed text', () => {
  const secrets = testSecrets();
  const stored = secrets.withhold(uploadWith());
  const sealed = stored.withheld!.sealed!;
  const missingIn = (upload: Upload, by: UploadSecrets = secrets): readonly string[] => by.reveal(upload).missing;

  test('opens nowhere but in its record, with the fields it belongs to', () => {
    expect(missingIn(stored)).toEqual([]);
    const renamed = stored.request.headers.map(
      ([name, value]) => [name === 'authorization' ? 'X-Shown' : name, value] as const,
    );
    const others: Upload[] = [
      { ...stored, id: uploadIdOf('B'.repeat(32)) },
      { ...stored, request: { ...stored.request, headers: renamed } },
      { ...stored, withheld: { ...stored.withheld!, lines: [...stored.withheld!.lines].reverse() } },
      { ...stored, withheld: { ...stored.withheld!, lines: stored.withheld!.lines.slice(1) } },
    ];
    expect(others.filter((upload) => missingIn(upload).length === 0)).toEqual([]);
  });

  test('is not the same twice, and any changed bit makes it useless', () => {
    expect(secrets.withhold(uploadWith()).withheld!.sealed).not.toBe(sealed);
    const [form, key, encoded] = sealed.split('.') as [string, string, string];
    const bytes = Buffer.from(encoded, 'base64url');
    const changed = Array.from({ length: 8 * bytes.length }, (_, bit) => {
      const copy = Buffer.from(bytes);
      copy[bit >> 3]! ^= 1 << (bit & 7);
      return [form, key, copy.toString('base64url')].join('.');
    });
    const others = ['', encoded, `2.${key}.${encoded}`, `${form}.AAAAAAAA.${encoded}`, sealed.slice(0, -4)];
    const opens = [...changed, ...others].filter(
      (text) => missingIn({ ...stored, withheld: { ...stored.withheld!, sealed: text } }).length === 0,
    );
    expect(opens).toEqual([]);
  });

  test('opens with each key of the ring, and is sealed again by the first', () => {
    const [older, newer] = ['an older key of two', 'a newer key of two'].map((text) => sealingKey(text));
    let keys = [older!];
    const ring = new KeyRing(() => keys);
    const rotated = testSecrets({ ring });
    const old = rotated.withhold(uploadWith());
    keys = [newer!, older!];
    ring.reload();
    expect([missingIn(old, rotated), rotated.needsOlderKey(old)]).toEqual([[], true]);
    const fields = rotated.reseal(old)!;
    const renewed = { ...old, ...fields };
    expect(keyIdOf(renewed.withheld!.sealed!)).toBe(newer!.id);
    expect([rotated.needsOlderKey(renewed), rotated.reseal(renewed)]).toEqual([false, undefined]);
    const fromNowOn = testSecrets({ ring: new KeyRing(() => [newer!]) });
    expect([missingIn(renewed, fromNowOn), missingIn(old, fromNowOn).length]).toEqual([[], 2 + 1]);
    expect([fromNowOn.isUnreadable(old), fromNowOn.isUnreadable(renewed)]).toEqual([true, false]);
  });

  test('of another process opens as soon as its key can be read', () => {
    const later = sealingKey('a key that comes later');
    const theirs = testSecrets({ ring: new KeyRing(() => [later]) }).withhold(uploadWith());
    let keys = [sealingKey('the first key of all')];
    const ours = testSecrets({ ring: new KeyRing(() => keys) });
    expect(missingIn(theirs, ours)).not.toEqual([]);
    keys = [later, ...keys];
    expect(missingIn(theirs, ours)).toEqual([]);
  });
});

test('secrets that an earlier version has stored in clear are sealed with the next rotation', () => {
  const secrets = testSecrets();
  const clear = uploadWith();
  expect(secrets.reveal(clear).upload).toBe(clear);
  const sealed = { ...clear, ...secrets.reseal(clear) };
  expect(JSON.stringify(sealed)).not.toMatch(/Bearer|ppp/);
  expect(secrets.reveal(sealed).upload.request).toEqual(clear.request);
});

test('a kept answer has its cookies', () => {
  const secrets = testSecrets();
  const answer = {
    status: 201,
    headers: [
      ['Set-Cookie', 'a=1'],
      ['ETag', 'x'],
      ['set-cookie', 'b=2'],
    ],
  } as unknown as Answer;
  const kept = secrets.withholdAnswer('id', answer);
  expect(JSON.stringify(kept)).not.toMatch(/a=1|b=2/);
  expect(secrets.revealAnswer('id', kept).headers).toEqual(answer.headers);
  expect(secrets.revealAnswer('other', kept).headers).toEqual([['ETag', 'x']]);
  const upload = uploadWith([], { answer: kept });
  expect(secrets.reseal(upload)).toBeUndefined();
});
