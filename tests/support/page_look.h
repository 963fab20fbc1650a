#pragma once
// What a browser makes of a page: the colours of its texts, what is wider than the window, how long it took to open.

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "support/devtools.h"

namespace daug::test {

/// JavaScript functions of computed colours: `hex` writes one as "#rrggbb" and throws for one that lets others shine
/// through, `behind` gives that of the nearest element that has one, white where none has.
inline const std::string kColourScript = R"js(
  const hex = colour => {
    const parts = colour.match(/[0-9.]+/g).map(Number);
    if (!colour.startsWith('rgb(') || parts.length !== 3) throw new Error('no plain colour: ' + colour);
    return '#' + parts.map(part => Math.round(part).toString(16).padStart(2, '0')).join('');
  };
  const behind = element => {
    for (let at = element; at; at = at.parentElement)
      if (getComputedStyle(at).backgroundColor !== 'rgba(0, 0, 0, 0)') return hex(getComputedStyle(at).backgroundColor);
    return '#ffffff';
  };
)js";

struct ShownText {
  std::string place;        ///< tag of the landmark or part of a table that it is in, and of its element: "nav a"
  std::string front, back;  ///< "#rrggbb"
};

/// Every combination of place and colours in which the page shows text.
inline std::vector<ShownText> shown_texts(BrowserSession& browser) {
  const nlohmann::json found = browser.evaluate("(() => {" + kColourScript + R"js(
    const seen = new Map(), texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
      const element = texts.currentNode.parentElement;
      if (!texts.currentNode.data.trim() || element.getClientRects().length === 0) continue;
      if (element.matches('option')) continue;  // which the browser draws itself
      const style = getComputedStyle(element);
      const part = element.closest('nav, thead, tbody, figcaption, svg, main, header');
      const text = {place: (part ? part.tagName : 'body').toLowerCase() + ' ' + element.tagName.toLowerCase(),
                    front: hex(element.ownerSVGElement ? style.fill : style.color), back: behind(element)};
      seen.set(text.place + text.front + text.back, text);
    }
    return [...seen.values()];
  })())js");
  std::vector<ShownText> texts;
  const auto part = [](const nlohmann::json& text, const char* name) { return text.at(name).get<std::string>(); };
  for (const auto& text : found) texts.push_back({part(text, "place"), part(text, "front"), part(text, "back")});
  return texts;
}

/// The first elements that reach beyond the window's right edge where the page is wider than the window; else nothing.
inline std::string sticking_out(BrowserSession& browser) {
  return browser
      .evaluate(R"js((() => {
    if (document.documentElement.scrollWidth <= innerWidth) return '';
    const beyond = one => one.getBoundingClientRect().right > innerWidth + 0.5;
    const out = [...document.body.querySelectorAll('*')].filter(beyond);
    return document.documentElement.scrollWidth + ' pixels in ' + innerWidth + ': ' +
      out.slice(0, 6).map(one => one.tagName.toLowerCase() + '.' + (one.getAttribute('class') || '')).join(', ');
  })())js")
      .get<std::string>();
}

/// Elements whose contents are cut off or have to be scrolled, as the browser lays them out now.
inline std::string scrolled(BrowserSession& browser) {
  return browser
      .evaluate(R"js((() => [...document.body.querySelectorAll('*')].filter(one => {
    const style = getComputedStyle(one);
    return style.overflowX !== 'visible' && one.scrollWidth > one.clientWidth && one.clientWidth > 0 &&
      !one.closest('svg');
  }).map(one => one.tagName.toLowerCase() + '.' + (one.getAttribute('class') || '')).join(', '))())js")
      .get<std::string>();
}

/// Milliseconds from asking for the page to its being there with all of its pictures. To be told, not to be tested:
/// they are this machine's.
inline double opening_ms(BrowserSession& browser) {
  return browser.evaluate("performance.getEntriesByType('navigation')[0].domComplete").get<double>();
}

}  // namespace daug::test
