import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, test } from '@jest/globals';

const CHILD = join(import.meta.dirname, '../support/pass-through-child.ts');

async function warningsOf(which: 'ours' | 'bare', ...flags: string[]): Promise<{ name: string; code?: string }[]> {
  const { stdout } = await promisify(execFile)(process.execPath, [...flags, '--import', 'tsx', CHILD, which]);
  return JSON.parse(stdout) as { name: string; code?: string }[];
}

test('http-proxy alone uses what Node has deprecated since version 22', async () => {
  const codes = (await warningsOf('bare')).map(({ code }) => code);
  const isDeprecated = Number(process.versions.node.split('.')[0]) >= 22;
  expect(codes.filter((code) => code === 'DEP0060')).toEqual(isDeprecated ? ['DEP0060'] : []);
});

test('ours passes through without a warning, also where a deprecation is an error', async () => {
  expect(await warningsOf('ours', '--throw-deprecation')).toEqual([]);
});
