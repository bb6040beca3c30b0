"""How the page looks: a calm theme with the fonts of the visitor's own system, light and dark.

Loads nothing from anywhere. Knows nothing of what the page shows.
"""

from __future__ import annotations

import gradio

FONTS = ("system-ui", "-apple-system", "Segoe UI", "Noto Sans", "PingFang SC", "Microsoft YaHei", "sans-serif")
MONOSPACE = ("ui-monospace", "Consolas", "monospace")


def page_theme() -> gradio.themes.Base:
    """Return the theme."""
    theme = gradio.themes.Base(
        primary_hue=gradio.themes.colors.blue,
        neutral_hue=gradio.themes.colors.slate,
        radius_size=gradio.themes.sizes.radius_md,
        font=list(FONTS),
        font_mono=list(MONOSPACE),
    )
    return theme.set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        block_border_width="1px",
        block_shadow="none",
        block_label_text_weight="500",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_text_color="white",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_700",
        button_cancel_background_fill="#b91c1c",
        button_cancel_background_fill_hover="#991b1b",
        button_cancel_background_fill_dark="#b91c1c",
        button_cancel_background_fill_hover_dark="#991b1b",
        button_cancel_text_color="white",
    )


STYLE = """
:root { --reid-same: #15803d; --reid-unsure: #a16207; --reid-different: #b91c1c; --reid-quiet: #64748b;
        --reid-same-soft: #dcfce7; --reid-unsure-soft: #fef3c7; --reid-different-soft: #fee2e2; --reid-soft: #f1f5f9; }
.dark { --reid-same: #86efac; --reid-unsure: #fcd34d; --reid-different: #fca5a5; --reid-quiet: #94a3b8;
        --reid-same-soft: #14532d; --reid-unsure-soft: #713f12; --reid-different-soft: #7f1d1d; --reid-soft: #1e293b; }

.in-zh { display: none; }
html[lang^=zh] .in-zh { display: inline; }
html[lang^=zh] .in-en { display: none; }
.in-en, .in-zh, .reid-tag *, .reid-verdict strong * { color: inherit !important; }

.gradio-container .main { max-width: 1180px !important; }
.gradio-container .html-container, .gradio-container .prose { padding: 0 !important; }
[data-testid=upload-text], [data-testid=upload-text] .or { font-size: 0 !important; }
[data-testid=upload-text] .icon-wrap { width: 30px !important; height: 30px !important; margin: 22px 0 0 !important; }
.file-preview .download { pointer-events: none; }
.file-preview .download a::after { content: none; }
footer { display: none !important; }
#page-head { align-items: center; }
#page-head h1 { font-size: 1.65rem; font-weight: 650; margin: 0; letter-spacing: -.01em; }
#page-head p { color: var(--reid-quiet) !important; margin: .25rem 0 0; }
#page-language { min-width: 220px !important; }
#page-language .wrap { flex-wrap: nowrap; justify-content: flex-end; }
#page-language label { white-space: nowrap; }

.reid-heading { font-size: 1rem; font-weight: 600; margin: .2rem 0 .6rem; }
.reid-hint { color: var(--reid-quiet) !important; font-size: .92rem; margin: .25rem 0; }
.reid-notice { border-radius: 8px; padding: .7rem .9rem; background: var(--reid-same-soft); overflow-wrap: anywhere;
               margin: .25rem 0; }
.reid-problem { background: var(--reid-unsure-soft); }
.reid-reason { display: block; color: var(--reid-quiet); font-size: .85rem; margin-top: .2rem; }
.dark .reid-problem .reid-reason { color: #e2e8f0; }
.reid-notice ul { margin: .3rem 0 0 1.1rem; font-size: .85rem; list-style: disc; }

.reid-cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(136px, 1fr)); gap: .7rem;
              list-style: none !important; padding: 0 !important; margin: 0 !important; }
.reid-card { border: 1px solid var(--border-color-primary); border-radius: 10px; overflow: hidden; margin: 0 !important;
             background: var(--block-background-fill); }
.reid-card img, .reid-blank { width: 100%; height: 168px; object-fit: contain; background: var(--reid-soft);
                              display: block; margin: 0; }
.reid-blank { display: grid; place-items: center; color: var(--reid-quiet); font-size: .8rem; }
.reid-facts { display: flex; flex-direction: column; gap: .2rem; padding: .55rem .65rem .65rem; font-size: .84rem;
              color: var(--reid-quiet); overflow-wrap: anywhere; }
.reid-facts:empty { display: none; }
.reid-facts > span:empty { display: none; }
.reid-facts strong { color: var(--body-text-color); font-size: .98rem; }
.reid-facts p { margin: 0 !important; }
.reid-facts > span:not(.reid-tag), .reid-facts > p { color: var(--reid-quiet) !important; }
.reid-tag { align-self: flex-start; border-radius: 999px; padding: .05rem .6rem; font-weight: 600; }
.reid-bar { height: 4px; border-radius: 2px; background: var(--reid-soft); overflow: hidden; margin: .15rem 0; }
.reid-bar i { display: block; height: 100%; background: var(--color-accent); }
.reid-same { color: var(--reid-same) !important; background: var(--reid-same-soft); }
.reid-unsure { color: var(--reid-unsure) !important; background: var(--reid-unsure-soft); }
.reid-different { color: var(--reid-different) !important; background: var(--reid-different-soft); }

.reid-who { border: 1px solid var(--border-color-primary); border-radius: 12px; padding: .9rem 1.1rem;
            background: var(--block-background-fill); }
.reid-question { display: block; color: var(--reid-quiet) !important; font-size: .9rem; }
.reid-name { font-size: 1.5rem; line-height: 1.35; overflow-wrap: anywhere; }
.reid-who .reid-facts { padding: .2rem 0 0; font-size: .92rem; }
.reid-verdict { border-radius: 12px; padding: 1rem 1.2rem; }
.reid-verdict strong { font-size: 1.4rem; color: inherit !important; }
.reid-verdict p { margin: .2rem 0 0 !important; }
.reid-none { background: var(--reid-soft); }
.reid-why { width: 100%; height: auto; background: white; border-radius: 8px; }

.reid-frame { position: relative; display: block; width: fit-content; margin: 0 auto; cursor: crosshair; line-height: 0;
              touch-action: manipulation; user-select: none; }
.reid-frame img { max-width: 100%; max-height: 420px; border-radius: 6px; margin: 0; }
.reid-box { position: absolute; border: 2px solid #fff; outline: 2px solid #2563eb; box-sizing: border-box;
            pointer-events: none; min-width: 6px; min-height: 6px; }
.reid-box[hidden] { display: none; }
.reid-if-waiting, .reid-frame[data-waiting] ~ .reid-if-not-waiting { display: none; }
.reid-frame[data-waiting] ~ .reid-if-waiting { display: block; }
.reid-preview img { max-height: 220px; max-width: 100%; margin: 0 auto; display: block; border-radius: 6px; }

.reid-stats { display: grid; grid-template-columns: repeat(4, 1fr); gap: .7rem; margin: 0; }
.reid-stats > div { border: 1px solid var(--border-color-primary); border-radius: 10px; padding: .5rem .8rem;
                    background: var(--block-background-fill); }
.reid-stats dd { font-size: 1.35rem; font-weight: 600; margin: 0; }
.reid-stats dt { color: var(--reid-quiet); font-size: .85rem; font-weight: 400; margin: 0; }

#gallery-sure { padding: .6rem; }
#gallery-people .wrap { max-height: 260px; overflow-y: auto; }
#gallery-people label { overflow-wrap: anywhere; max-width: 100%; }
@media (max-width: 640px) {
  .gradio-container .main { padding: .8rem .9rem !important; }
  .reid-stats { grid-template-columns: repeat(2, 1fr); }
  #page-head { flex-direction: column; align-items: stretch; gap: .6rem; }
  #page-language .wrap { justify-content: flex-start; }
  .reid-card img, .reid-blank { height: 150px; }
}
"""

SCRIPT = """
new MutationObserver(() => {
  for (const input of document.querySelectorAll('input[type=file]:not([accept="image/*"])')) input.accept = 'image/*';
}).observe(document, {childList: true, subtree: true});
"""
"""Phones offer the camera and their pictures. Gradio's own way, `file_types`, refuses all else in words of its own."""
