import { expect, test } from '@jest/globals';
import { keptAnswer } from '../../src/delivery/kept-answer.js';
import { silentLog } from '../../src/observe/log.js';
import { Metrics } from '../../src/observe/metrics.js';
import type { Upload } from '../../src/model/upload.js';
import { answer, newId, newUpload } from '../contract/sample-upload.js';

function lostUpload(): Upload {
  return {
    ...newUpload({ id: newId() }),
    phase: 'answered',
    offset: 0,
    attempts: [],
    attemptCount: 0,
    answer: answer(2),
  };
}

test('a lost answer is told of once, and what remembers that does not grow for ever', async () => {
  const known = lostUpload();
  const losses: string[] = [];
  const metrics = Object.assign(new Metrics(), { bytesLost: (what: string) => losses.push(what) });
  const reportedLosses = new Set<string>();
  const store = { get: () => Promise.resolve(known), answerBody: () => Promise.resolve(undefined) };
  const deps = {
    store,
    spool: {
      read: () => {
        throw new Error('nothing is in the spool');
      },
    },
    log: silentLog(),
    metrics,
    reportedLosses,
  };
  const here = new AbortController().signal;
  expect([await keptAnswer(known, deps, here), await keptAnswer(known, deps, here)]).toEqual([undefined, undefined]);
  expect(losses).toEqual(['answer']);
  for (let count = 0; count < 10_050; count++) await keptAnswer(lostUpload(), deps, here);
  expect(reportedLosses.size).toBe(10_000);
  expect(reportedLosses.has(known.id)).toBe(false);
});
