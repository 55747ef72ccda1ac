import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { Browser } from 'playwright-core';
import { DemoCommand } from '../support/demo-command.js';
import { DemoPage, launchChromium } from '../support/demo-page.js';
import { randomBytes, temporaryDirectory } from '../support/temporary.js';

// Issue 13: the page to try, in Chromium.

const MIB = 1024 * 1024;
const SIZE = 16 * MIB;

let demo: DemoCommand;
let browser: Browser;
beforeAll(async () => {
  [demo, browser] = await Promise.all([DemoCommand.start(), launchChromium()]);
});
afterAll(async () => {
  await browser.close();
  await demo.end();
});

describe.each(['ours', 'tus', 'uppy'] as const)('an upload with the client "%s"', (client) => {
  test('survives a cut and a kill, and the API gets one POST', async () => {
    const shown = await DemoPage.open(browser, demo.pageUrl);
    await shown.slowDown(MIB);
    await shown.sendSample(client, SIZE);
    await shown.untilSafe(0);
    await shown.press('cut');
    await shown.untilState('waiting');
    await shown.untilState('sending');
    await shown.press('kill');
    await shown.untilState('waiting');
    await shown.slowDown(0);
    await shown.untilState('done');
    expect(await shown.text('#proof-title')).toBe('✔ Your API got one POST, and every byte of it');
    const proof = await shown.text('#proof-list');
    const hashes = [...proof.matchAll(/\b[0-9a-f]{64}\b/g)].map(([hash]) => hash);
    expect(hashes).toHaveLength(2);
    expect(hashes[0]).toBe(hashes[1]);
    expect(proof).toContain('no header field of it');
    expect(proof).toContain('1 × cut, 1 × kill -9');
    const log = (await shown.log()).join('\n');
    expect(log).toMatch(
      /Connection cut at [\d.]+ MiB\n[^]*Connection lost at [\d.]+ MiB\n[^]*The client goes on from there/,
    );
    expect(log).toMatch(/Proxy killed at [^]*Proxy started again, [^]*The client goes on from there/);
    expect(log).toContain(`Content-Length ${SIZE}`);
    expect(log).not.toContain('The offset went back');
    expect(log.match(/Answer of the API: 201/g)).toHaveLength(1);
    expect([shown.problems, shown.foreignRequests]).toEqual([[], []]);
    await shown.page.context().close();
  });
});

test('a reload in the middle: the same file goes on where it was', async () => {
  const directory = await temporaryDirectory();
  const file = join(directory.path, 'holiday.mov');
  await writeFile(file, randomBytes(SIZE));
  const shown = await DemoPage.open(browser, demo.pageUrl, { width: 360, height: 740 });
  await shown.slowDown(4 * MIB);
  await shown.page.locator('#file').setInputFiles(file);
  await shown.page.locator('#send').click();
  // The first append of the client has 4 MiB.
  await shown.untilSafe(4 * MIB);
  await shown.page.reload();
  await shown.page.locator('#file').setInputFiles(file);
  await shown.page.locator('#send').click();
  await shown.untilState('done');
  expect((await shown.log()).join('\n')).toMatch(/The proxy has (?:[4-9]|1\d)\.\d MiB. The client goes on from there/);
  const hash = createHash('sha256');
  for await (const bytes of createReadStream(file)) hash.update(bytes as Buffer);
  expect(await shown.text('#proof-list')).toContain(hash.digest('hex'));
  await shown.page.context().close();
  await directory.remove();
});

test('an upload can be stopped, and begun again', async () => {
  const shown = await DemoPage.open(browser, demo.pageUrl);
  await shown.slowDown(MIB);
  await shown.sendSample('tus', SIZE);
  await shown.page.locator('#stop').click();
  await shown.untilState('failed');
  expect(await shown.text('#status')).toBe('Stopped.');
  await shown.slowDown(0);
  await shown.page.locator('#send').click();
  await shown.untilState('done');
  await shown.page.context().close();
});

test('a delivery that a kill broke off is told beside the complete one', async () => {
  const shown = await DemoPage.open(browser, demo.pageUrl);
  await shown.page.route('**/received?*', async (route) => {
    const response = await route.fetch();
    const [request] = (await response.json()) as { sha256?: string }[];
    await route.fulfill({ json: [{ ...request, size: 5, sha256: undefined }, request] });
  });
  await shown.slowDown(0);
  await shown.sendSample('ours', SIZE);
  await shown.untilState('done');
  expect(await shown.text('#proof-title')).toBe(
    '✔ Your API got one complete POST, and every byte of it, after one that the kill broke off',
  );
  expect(await shown.text('#proof-list')).toMatch(/\(broken off at 5 B\), POST [^]*so it never repeats it silently/);
  await shown.page.context().close();
});

describe('for everybody', () => {
  test('nothing is wider than the window, from a small phone on', async () => {
    const shown = await DemoPage.open(browser, demo.pageUrl);
    for (const client of ['ours', 'uppy'] as const) {
      await shown.choose(client);
      if (client === 'uppy') await shown.page.locator('.uppy-Dashboard-inner').waitFor();
      for (const width of [320, 360, 768, 1280]) {
        await shown.page.setViewportSize({ width, height: 740 });
        expect(await shown.page.evaluate('document.documentElement.scrollWidth')).toBe(width);
      }
    }
    await shown.page.context().close();
  });

  test('every control has a name, and is reached and used with the keyboard alone', async () => {
    const shown = await DemoPage.open(browser, demo.pageUrl);
    const { page } = shown;
    const reached: string[] = [];
    for (let pressed = 0; pressed < 9; pressed++) {
      await page.keyboard.press('Tab');
      reached.push(await page.evaluate('document.activeElement.id || document.activeElement.name'));
    }
    expect(reached.slice(0, 7)).toEqual(['client', 'rate', 'sample-size', 'sample', 'file', 'cut', 'kill']);
    for (const name of ['Cut the connection', 'Kill the proxy', 'Use the sample'])
      expect(await page.getByRole('button', { name }).count()).toBe(1);
    for (const name of ['Speed', 'Sample file']) expect(await page.getByRole('combobox', { name }).count()).toBe(1);
    expect(await page.getByRole('progressbar', { name: 'Bytes that are safe at the proxy' }).count()).toBe(1);
    expect(await page.getByRole('log', { name: 'What happened' }).count()).toBe(1);
    await page.locator('#sample').focus();
    await page.keyboard.press('Enter');
    await page.locator('#send').focus();
    await page.keyboard.press('Enter');
    await shown.untilState('done');
    await page.context().close();
  });

  test('on another machine the buttons say where they work', async () => {
    const context = await browser.newContext();
    const page = await context.newPage();
    // A name that leads to this machine without being one of its own names for itself.
    await page.goto(demo.pageUrl.replace('127.0.0.1', 'phone.localhost'));
    await page.locator('#plugs-note').waitFor();
    expect(await page.locator('#cut').isDisabled()).toBe(true);
    await page.locator('#sample-size').selectOption(`${SIZE}`);
    await page.locator('#sample').click();
    await page.locator('#send').click();
    await page.locator('#proof').waitFor();
    expect(await page.locator('#proof-title').innerText()).toBe('✔ Your API got one POST, and every byte of it');
    await context.close();
  });
});
