import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from '@jest/globals';
import { format } from 'prettier';
import { CLIENTS, expectedCell, matrixTable } from '../support/delivery-matrix.js';
import { play } from '../support/matrix-play.js';
import { originFaults } from '../support/origin-faults.js';

// Issue 3, item 1.
const faults = originFaults();

describe.each(['at_most_once', 'at_least_once'] as const)('%s: an origin that', (guarantee) => {
  test.each(faults)('$name', async (fault) => {
    const cells = ['POST', 'PUT'].flatMap((method) => CLIENTS.map((client) => ({ method, client })));
    const played = await Promise.all(
      cells.map(async (cell) => ({ ...cell, ...(await play({ ...cell, fault, guarantee })) })),
    );
    const { course } = fault;
    const isRepeated = course.is === 'refused' || (course.is === 'gateways' && guarantee === 'at_least_once');
    const pause = isRepeated ? course.afterMs : 0;
    const stated = cells.map((cell) => ({ ...cell, ...expectedCell(fault.course, guarantee, cell.client) }));
    expect(played).toMatchObject(stated);
    // `Retry-After` counts from the answer's head, a moment before the attempt has ended.
    for (const { pauseMs = pause } of played) expect(pauseMs).toBeGreaterThanOrEqual(pause * 0.9);
  });
});

// `UPDATE_DOCS=1` writes it anew.
test('the documentation shows this matrix', async () => {
  const file = join(import.meta.dirname, '..', '..', 'docs', 'delivery.md');
  const text = readFileSync(file, 'utf8');
  const [before = '', rest = ''] = text.split('<!-- matrix -->');
  const after = rest.slice(rest.indexOf('<!-- /matrix -->'));
  const markdown = `${before}<!-- matrix -->\n\n${matrixTable(faults)}\n\n${after}`;
  const wanted = await format(markdown, { parser: 'markdown', printWidth: 120 });
  if (process.env['UPDATE_DOCS']) writeFileSync(file, wanted);
  else expect(text).toBe(wanted);
});
