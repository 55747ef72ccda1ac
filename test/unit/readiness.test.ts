import { expect, test } from '@jest/globals';
import { checkReadiness } from '../../src/admin/admin.js';

const ok = (name: string) => ({ name, check: () => Promise.resolve(undefined) });

test('all that holds makes ready, and nothing to hold too', async () => {
  expect(await checkReadiness([ok('store'), ok('spool')])).toEqual({
    ready: true,
    checks: [
      { name: 'store', ok: true },
      { name: 'spool', ok: true },
    ],
  });
  expect(await checkReadiness([])).toEqual({ ready: true, checks: [] });
});

test('one that is only told does not keep requests away', async () => {
  const records = {
    name: 'records',
    isInformational: true,
    check: () => Promise.resolve('one cannot be read'),
  } as const;
  const checks = [
    { name: 'store', ok: true },
    { name: 'records', ok: false, problem: 'one cannot be read' },
  ];
  expect(await checkReadiness([ok('store'), records])).toEqual({ ready: true, checks });
});

test('a check that fails, throws or never ends is told, and the others beside it', async () => {
  const checks = [
    ok('store'),
    { name: 'draining', check: () => Promise.resolve('stopping') },
    { name: 'spool', check: () => Promise.reject(new Error('read-only')) },
    { name: 'disk', check: () => new Promise<undefined>(() => undefined) },
  ];
  expect(await checkReadiness(checks, 20)).toEqual({
    ready: false,
    checks: [
      { name: 'store', ok: true },
      { name: 'draining', ok: false, problem: 'stopping' },
      { name: 'spool', ok: false, problem: 'read-only' },
      { name: 'disk', ok: false, problem: 'no answer within 20 ms' },
    ],
  });
});
