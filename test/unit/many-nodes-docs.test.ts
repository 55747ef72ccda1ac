import { readFileSync } from 'node:fs';
import { expect, test } from '@jest/globals';
import { aclRule } from '../../src/store/redis/errors.js';

const page = readFileSync(new URL('../../docs/many-nodes.md', import.meta.url), 'utf8');

test('the page gives a user of Redis the rights that the proxy itself asks for', () => {
  const [, rights] = /ACL SETUSER rufh on >password (.*)/.exec(page)!;
  expect(rights).toBe(aclRule('rufh'));
});

test('every test that the page names as a witness is there', () => {
  const named = [...page.matchAll(/\| `(many-nodes-\w+)` +\|/g)].map(([, name]) => name!);
  expect(new Set(named).size).toBe(3);
  for (const name of named) {
    expect(readFileSync(new URL(`../e2e/${name}.test.ts`, import.meta.url), 'utf8')).toContain('NodeStage.open');
  }
});
