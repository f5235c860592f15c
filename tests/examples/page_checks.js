// What the checks of all pages share. Stands behind the page's own script; window.failures is set in front of it
// (browser.py).

window.pageChecks = (() => {
  const all = selector => [...document.querySelectorAll(selector)];
  const overflow = () => document.documentElement.scrollWidth - window.innerWidth;

  // WCAG 2: the contrast of all text that can be seen with what is behind it.
  const channels = colour => (colour.match(/[\d.]+/g) ?? []).map(Number);
  const luminance = colour => channels(colour).slice(0, 3).map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  function behind(element) {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      const alpha = channels(colour)[3] ?? 1;
      if (alpha > 0) return colour;
    }
    return 'rgb(255, 255, 255)';
  }
  function lowestContrast() {
    const found = all('body *').filter(element => element.checkVisibility() && !element.closest('script, noscript, .skip') &&
      [...element.childNodes].some(node => node.nodeType === Node.TEXT_NODE && node.textContent.trim()))
      .map(element => {
        const style = getComputedStyle(element);
        const text = luminance(element instanceof SVGElement ? style.fill : style.color);
        const ground = luminance(behind(element));
        const ratio = (Math.max(text, ground) + 0.05) / (Math.min(text, ground) + 0.05);
        return {ratio, text: element.textContent.trim().slice(0, 40)};
      });
    return {count: found.length, lowest: found.sort((a, b) => a.ratio - b.ratio)[0]};
  }

  // What holds for every page, last: it changes the theme.
  function lookAtTheWhole(seen) {
    seen.headersWithoutScope = all('th:not([scope])').length;
    seen.headings = all('h1, h2, h3').filter(heading => heading.checkVisibility()).map(heading => heading.tagName);
    seen.contrast = lowestContrast();
    const ground = getComputedStyle(document.body).backgroundColor;
    document.getElementById('theme').click();
    seen.themeChanges = getComputedStyle(document.body).backgroundColor !== ground;
    seen.contrastOther = lowestContrast();
    seen.requests = performance.getEntriesByType('resource').map(entry => entry.name);
  }

  // Tells the frame around the page what `look` has seen.
  function tell(look) {
    let seen = {};
    try {
      seen = look();
    } catch (error) {
      window.failures.push(String(error.stack));
    }
    seen.failures = window.failures;
    parent.postMessage(btoa(unescape(encodeURIComponent(JSON.stringify(seen)))), '*');
  }

  return {all, overflow, lookAtTheWhole, tell};
})();
