import { readFileSync } from 'node:fs';
import { expect, test } from '@jest/globals';
import { SYSTEM_NAMES } from '../../src/spool/directory-rules.js';
import { startFakeOrigin } from '../support/fake-origin.js';
import { startProxy } from '../support/proxy.js';

const page = readFileSync(new URL('../../docs/operating.md', import.meta.url), 'utf8');

/** The cells of every row whose first one begins with this. */
function rows(beginning: string): string[][] {
  const lines = page.split('\n').filter((line) => line.startsWith(`| ${beginning}`));
  return lines.map((line) =>
    line
      .slice(2, -2)
      .split(/(?<!\\)\|/)
      .map((cell) => cell.trim()),
  );
}

test('the page lists the figures of a running proxy, as it explains them itself', async () => {
  const origin = await startFakeOrigin();
  const proxy = await startProxy({ origin: origin.url });
  const text = await (await fetch(`${proxy.adminUrl}/metrics`)).text();
  await proxy.stop();
  await origin.close();
  const figures = [...text.matchAll(/^# HELP (rufh_\S+) (.*)\n# TYPE \S+ (\w+)/gm)];
  expect(figures.length).toBeGreaterThan(15);
  const listed = figures.map(([, name, help, type]) => [`\`${name!}\``, type!, help!]);
  expect(rows('`rufh_').sort()).toEqual(listed.sort());
});

test('every figure that an alert asks for exists', () => {
  const known = new Set(rows('`rufh_').map(([name]) => name!.slice(1, -1)));
  const alerts = /Worth an alert:\n\n```\n([\s\S]*?)```/.exec(page)![1]!;
  const asked = [...alerts.matchAll(/rufh_[a-z_]+/g)].map(([name]) => name.replace(/_bucket$/, ''));
  expect(asked.length).toBeGreaterThan(3);
  expect(asked.filter((name) => !known.has(name))).toEqual([]);
});

test('every reason why an upload is undelivered is explained', () => {
  const model = readFileSync(new URL('../../src/model/upload.ts', import.meta.url), 'utf8');
  const reasons = /readonly reason: ('[^;]+);/
    .exec(model)![1]!
    .split(' | ')
    .map((reason) => reason.replaceAll("'", '`'));
  expect(reasons.length).toBeGreaterThan(3);
  for (const reason of reasons) expect(rows(reason)).toHaveLength(1);
});

test('the page names every entry with which a directory still counts as empty', () => {
  const named = rows('empty, or not there')[0]![0]!.match(/`[^`]+`/g)!;
  expect(named.map((name) => name.slice(1, -1))).toEqual(SYSTEM_NAMES);
});
