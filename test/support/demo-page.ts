import { type Browser, chromium, type Page } from 'playwright-core';
import { until } from './temporary.js';

/** Debian's; Playwright's own builds are never downloaded. */
const CHROMIUM = '/usr/bin/chromium';

/** How the page is looked at. */
export interface DemoPageOptions {
  readonly width?: number;
  readonly height?: number;
  readonly colorScheme?: 'light' | 'dark';
}

export function launchChromium(): Promise<Browser> {
  return chromium.launch({ executablePath: CHROMIUM, args: ['--no-sandbox'] });
}

/** The page of the demo in a real browser, as its user sees it. */
export class DemoPage {
  /** Errors of the page, and what its security policy has blocked. */
  readonly problems: string[] = [];
  /** Addresses of other servers that it asked. */
  readonly foreignRequests: string[] = [];

  private constructor(readonly page: Page) {}

  static async open(browser: Browser, url: string, options: DemoPageOptions = {}): Promise<DemoPage> {
    const { width = 1100, height = 900, colorScheme = 'light' } = options;
    const context = await browser.newContext({ viewport: { width, height }, colorScheme });
    const page = await context.newPage();
    const demo = new DemoPage(page);
    page.on('pageerror', (error) => demo.problems.push(String(error)));
    page.on('console', (message) => {
      // A cut is an error in the console, whoever handles it.
      if (message.type() === 'error' && !/net::ERR_|Failed to load resource/.test(message.text()))
        demo.problems.push(message.text());
    });
    page.on('request', (request) => {
      const { protocol, hostname } = new URL(request.url());
      if (protocol.startsWith('http') && hostname !== new URL(url).hostname) demo.foreignRequests.push(request.url());
    });
    await page.goto(url);
    await page.locator('#cut:enabled').waitFor();
    return demo;
  }

  /** `idle`, `ready`, `sending`, `waiting`, `done` or `failed`. */
  state(): Promise<string> {
    return this.page.evaluate('document.body.dataset.state');
  }

  async untilState(state: string): Promise<void> {
    await until(async () => (await this.state()) === state, `the page to be ${state}`, 60_000).catch(
      async (error: unknown) => {
        throw new Error(`${String(error)}; it is ${await this.state()}:\n${(await this.log()).join('\n')}`);
      },
    );
  }

  async choose(client: 'ours' | 'tus' | 'uppy'): Promise<void> {
    await this.page.locator(`input[name=client][value=${client}]`).check({ force: true });
  }

  async slowDown(bytesPerSecond: number): Promise<void> {
    await this.page.locator('#rate').selectOption(`${bytesPerSecond}`);
  }

  /** Takes the sample and begins to send it, as the client chosen wants it. */
  async sendSample(client: 'ours' | 'tus' | 'uppy', size: number): Promise<void> {
    await this.choose(client);
    await this.page.locator('#sample-size').selectOption(`${size}`);
    if (client === 'uppy') await this.page.locator('.uppy-Dashboard-inner').waitFor();
    await this.page.locator('#sample').click();
    await this.page.locator(client === 'uppy' ? '.uppy-StatusBar-actionBtn--upload' : '#send').click();
    await this.untilState('sending');
  }

  /** Waits until more than so many bytes are safe. */
  async untilSafe(bytes: number): Promise<void> {
    await until(
      () => this.page.evaluate(`document.querySelector('#progress').value > ${bytes}`),
      `${bytes} safe bytes`,
    );
  }

  press(button: 'cut' | 'kill'): Promise<void> {
    return this.page.locator(`#${button}[aria-disabled=false]`).click();
  }

  /** The lines under "What happened", without their times. */
  log(): Promise<string[]> {
    return this.page.locator('#log li span:last-child').allTextContents();
  }

  text(selector: string): Promise<string> {
    return this.page.locator(selector).innerText();
  }
}
