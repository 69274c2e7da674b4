// Package hmi holds the drawn parts of the console: theme, numerals, tiles,
// trend, cameras, backlog, alarm table. Greys are normal, blue is live data,
// and the four alarm priorities differ in colour, shape and digit; no colour
// says that something is well (ISA-101).
//
// All of it belongs to the toolkit's goroutine. Text that changes is drawn by
// Ink into a raster, because the toolkit keeps a texture for every different
// string for a minute.
package hmi

import (
	"image/color"

	"fyne.io/fyne/v2"
	"fyne.io/fyne/v2/theme"
)

// Palette is every colour that the console uses.
type Palette struct {
	Base     color.NRGBA // behind the panels
	Panel    color.NRGBA
	Edge     color.NRGBA // thin lines between panels
	Grid     color.NRGBA // lines inside a plot
	Text     color.NRGBA
	Muted    color.NRGBA // labels, and values that are old
	Live     color.NRGBA // values that are so now
	Scale    color.NRGBA // ground of a bar
	Band     color.NRGBA // normal range on a bar
	Waiting  color.NRGBA // part of a backlog that waits
	Pens     [4]color.NRGBA
	Button   color.NRGBA
	Priority [5]color.NRGBA // 1..4; 0 is the colour of no alarm
	OnBadge  [5]color.NRGBA // digits on them
}

func rgb(v uint32) color.NRGBA {
	return color.NRGBA{R: uint8(v >> 16), G: uint8(v >> 8), B: uint8(v), A: 255}
}

// Dark is the palette for dim rooms.
func Dark() Palette {
	black := rgb(0x101214)
	return Palette{
		Base: rgb(0x212528), Panel: rgb(0x2d3235), Edge: rgb(0x454b50), Grid: rgb(0x3f4549),
		Text: rgb(0xe8eaec), Muted: rgb(0xa9afb5), Live: rgb(0xa0c4ff),
		Scale: rgb(0x23272a), Band: rgb(0x565d63), Waiting: rgb(0x6f8db8),
		Pens:     [4]color.NRGBA{rgb(0xaab2b9), rgb(0x8c949b), rgb(0x737b82), rgb(0x9da9bb)},
		Button:   rgb(0x4a5157),
		Priority: [5]color.NRGBA{rgb(0x454b50), rgb(0xf43f3f), rgb(0xffa028), rgb(0xfae13c), rgb(0x9678f0)},
		OnBadge:  [5]color.NRGBA{rgb(0xe8eaec), black, black, black, black},
	}
}

// Light is the palette for bright rooms. Its priority colours fill badges and
// frames and are never text: amber on light grey has a contrast of 2:1.
func Light() Palette {
	white, black := rgb(0xffffff), rgb(0x101214)
	return Palette{
		Base: rgb(0xd3d6d9), Panel: rgb(0xe4e6e8), Edge: rgb(0xb4b9be), Grid: rgb(0xc6cace),
		Text: rgb(0x1d2124), Muted: rgb(0x4d545a), Live: rgb(0x17356e),
		Scale: rgb(0xf1f2f3), Band: rgb(0xb9bfc4), Waiting: rgb(0x7f95b8),
		Pens:     [4]color.NRGBA{rgb(0x5b636a), rgb(0x7a8289), rgb(0x939ba1), rgb(0x67738a)},
		Button:   rgb(0xc3c8cc),
		Priority: [5]color.NRGBA{rgb(0xb4b9be), rgb(0xc8001e), rgb(0xe67d00), rgb(0xd2b900), rgb(0x7846b4)},
		OnBadge:  [5]color.NRGBA{rgb(0x1d2124), white, black, black, white},
	}
}

// Choice is which palette a Theme uses.
type Choice int

const (
	System   Choice = iota // as the desktop says
	DarkOnly               // always dark
	LightOnly
)

// Theme is the console's look.
type Theme struct {
	choice Choice
	dense  bool
	form   bool
}

// NewTheme makes the look; with System the desktop's variant decides.
func NewTheme(c Choice) *Theme { return &Theme{choice: c} }

// Dense is the same look with small paddings, for tables.
func (t *Theme) Dense() *Theme { return &Theme{choice: t.choice, dense: true} }

// Form is the same look for fields to type in: as high as a finger needs, on
// the ground of a scale.
func (t *Theme) Form() *Theme { return &Theme{choice: t.choice, form: true} }

// Palette returns the colours for the desktop's variant.
func (t *Theme) Palette(v fyne.ThemeVariant) Palette {
	if t.choice == LightOnly || t.choice == System && v == theme.VariantLight {
		return Light()
	}
	return Dark()
}

// Color gives the toolkit's own widgets colours of the palette.
func (t *Theme) Color(n fyne.ThemeColorName, v fyne.ThemeVariant) color.Color {
	p := t.Palette(v)
	switch n {
	case theme.ColorNameBackground, theme.ColorNameScrollBarBackground:
		return p.Base
	case theme.ColorNameForeground, theme.ColorNamePrimary, theme.ColorNameHyperlink:
		return p.Text
	case theme.ColorNameForegroundOnPrimary:
		return p.Panel
	case theme.ColorNameDisabled, theme.ColorNamePlaceHolder:
		return p.Muted
	case theme.ColorNameButton:
		return p.Button
	case theme.ColorNameInputBackground:
		if t.form {
			return p.Scale
		}
		return p.Panel
	case theme.ColorNameDisabledButton, theme.ColorNameHeaderBackground,
		theme.ColorNameMenuBackground, theme.ColorNameOverlayBackground:
		return p.Panel
	case theme.ColorNameSeparator, theme.ColorNameInputBorder, theme.ColorNameShadow:
		return p.Edge
	case theme.ColorNameScrollBar:
		return p.Band
	case theme.ColorNameFocus:
		c := p.Live
		c.A = 110
		return c
	case theme.ColorNameHover, theme.ColorNamePressed:
		c := p.Text
		c.A = 24
		return c
	case theme.ColorNameSelection:
		c := p.Live
		c.A = 56
		return c
	case theme.ColorNameError:
		return p.Priority[1]
	case theme.ColorNameWarning:
		return p.Priority[2]
	case theme.ColorNameSuccess:
		return p.Text // nothing is green
	}
	return theme.DefaultTheme().Color(n, v)
}

// Font gives the toolkit's bundled fonts, which do not depend on the machine.
func (t *Theme) Font(s fyne.TextStyle) fyne.Resource { return theme.DefaultTheme().Font(s) }

// Icon gives the toolkit's icons.
func (t *Theme) Icon(n fyne.ThemeIconName) fyne.Resource { return theme.DefaultTheme().Icon(n) }

// Size gives flat, tight shapes.
func (t *Theme) Size(n fyne.ThemeSizeName) float32 {
	switch n {
	case theme.SizeNamePadding:
		if t.dense {
			return 1
		}
		return 4
	case theme.SizeNameInnerPadding:
		switch {
		case t.dense:
			return 4
		case t.form:
			return 13
		}
		return 8
	case theme.SizeNameText:
		return 13
	case theme.SizeNameInputRadius, theme.SizeNameSelectionRadius, theme.SizeNameButtonRadius:
		return 2
	case theme.SizeNameScrollBar:
		return 10
	case theme.SizeNameScrollBarSmall:
		return 4
	}
	return theme.DefaultTheme().Size(n)
}
